"""Checkpoints of others: recognised, translated, exported."""
