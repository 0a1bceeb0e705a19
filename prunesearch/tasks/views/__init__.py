"""Views: rows as people get them in the end, noisy, blurred, misspelt, for judging how robust a schedule is."""
