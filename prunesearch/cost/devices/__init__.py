"""The devices that costs are measured on: what they are, and the state they are in."""
