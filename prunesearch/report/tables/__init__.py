"""What is known as tables: on a terminal, and as data frames."""
