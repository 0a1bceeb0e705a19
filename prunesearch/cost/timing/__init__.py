"""How pieces of a model and whole forwards are timed."""
