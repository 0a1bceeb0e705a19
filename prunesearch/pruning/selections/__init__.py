"""Scores become kept tokens. One file a selection, one row in `core.tables.registry.SELECTIONS`."""
