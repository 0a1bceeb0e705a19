"""Cost tables of devices that are not at hand."""
