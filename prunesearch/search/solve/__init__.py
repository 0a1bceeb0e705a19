"""One-stage losses, and the front that follows from them and the costs."""
