"""What belongs to one forward: its tokens, what a stage decided, and where they went."""
