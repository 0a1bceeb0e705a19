"""Trainings of points and of whole models, and what is judged of them."""
