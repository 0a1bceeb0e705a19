"""Tables of names: their form, their rows, the numbers that rows may be given, and plug-ins."""
