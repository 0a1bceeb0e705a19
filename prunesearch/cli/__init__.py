"""The command line: parse, make one call, print."""
