"""What proposes the next schedule."""
