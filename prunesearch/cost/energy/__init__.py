"""Energy: counters, windows over them, and the fit that prices schedules."""
