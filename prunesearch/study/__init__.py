"""A study: its settings, its folder, its trials and its front."""
