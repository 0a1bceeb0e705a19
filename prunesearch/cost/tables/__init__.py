"""Cost tables and device profiles: what is kept of measurements, and what is read off them."""
