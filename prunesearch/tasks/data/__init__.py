"""Rows: where they come from, their columns, cells and labels, and how they are split."""
