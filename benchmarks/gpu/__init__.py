"""What is measured on the day a GPU is at hand; `benchmarks/gpu_day.py` runs it."""
