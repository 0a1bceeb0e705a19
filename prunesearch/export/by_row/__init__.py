"""Plans that are chosen row by row: what decides, running it, and writing it for other runtimes."""
