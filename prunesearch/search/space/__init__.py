"""Which schedules may be tried."""
