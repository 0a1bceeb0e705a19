"""Settings of a run: how they may be typed, the loads among them, and what a study that goes on may change."""
