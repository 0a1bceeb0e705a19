"""What the rest is built from: schedules, budgets, fronts, tables of names. Standard library and numpy only."""
