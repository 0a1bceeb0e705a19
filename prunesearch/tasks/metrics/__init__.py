"""Quality: metrics, and the intervals that make them honest."""
