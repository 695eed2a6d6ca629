"""Commands that make, check and show data."""
