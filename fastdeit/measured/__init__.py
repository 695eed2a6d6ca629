"""What was measured, on what."""
