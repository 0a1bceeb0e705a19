"""Training under real removal: what recovery, elastic networks and learned scorers have in common."""
