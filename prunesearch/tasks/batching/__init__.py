"""Rows in batches: held, or prepared when they are used."""
