"""Importance of tokens. One file a scorer or a few that are alike, one row each in `core.tables.registry.SCORERS`."""
