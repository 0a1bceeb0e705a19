"""Learned scorers: one file a method, and what they share: the probe, what a step sees, and saving."""
