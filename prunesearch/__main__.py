"""`python -m prunesearch`."""

from prunesearch.cli import main

main()
