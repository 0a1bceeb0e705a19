"""Asking, evaluating, telling."""
