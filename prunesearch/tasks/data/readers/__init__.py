"""What reads files of one form each into rows."""
