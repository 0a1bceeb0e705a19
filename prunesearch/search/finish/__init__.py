"""From finished trials to the front."""
