"""What a schedule costs: pieces timed inside real forwards, a table that adds them up, and MAC counts."""
