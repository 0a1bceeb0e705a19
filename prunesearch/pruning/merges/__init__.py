"""What becomes of the tokens that are not kept. One file a merge, one row in `core.tables.registry.MERGES`."""
