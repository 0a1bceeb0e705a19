"""What is done to a model: stages, schedules, plans, and how tokens flow under them."""
