"""What evaluates the schedules that a search asks for, and where."""
