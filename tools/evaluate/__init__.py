"""Commands that look at what was trained: `evaluate`, `analyse`."""
