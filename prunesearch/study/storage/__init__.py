"""Trials in Optuna's storage, written and read."""
