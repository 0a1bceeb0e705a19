"""Plans that are chosen input by input: a fast one, and a slower one where its answer is unsure."""
