"""Models with their schedule inside, written for other runtimes."""
