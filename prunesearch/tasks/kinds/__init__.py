"""Kinds of task, one or two files each."""
