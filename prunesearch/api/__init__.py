"""The Python face of prunesearch: what each command does, as one function, and a study to go on with."""
