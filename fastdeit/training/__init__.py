"""Training from a session to its end, and evaluation."""
