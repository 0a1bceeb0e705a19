"""Ways to reduce tokens, side by side at equal measured latency."""
