"""`python -m prunesearch`."""

from prunesearch.cli.app import main

main()
