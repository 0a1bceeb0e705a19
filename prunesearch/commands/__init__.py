"""What the commands beside `run` do: profile, verify, transfer."""
