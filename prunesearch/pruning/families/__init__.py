"""Model families: where their blocks are, how they compute, what is protected."""
