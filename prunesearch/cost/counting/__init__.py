"""Multiply-adds and memory of a schedule: counted, not timed."""
