"""Token reduction at run time: scorers, merges, model families, and `apply_`."""
