"""What a search minimises and is bounded by."""
