"""Graphs of whole models in files: written, put into fewer bits, and run by other runtimes."""
