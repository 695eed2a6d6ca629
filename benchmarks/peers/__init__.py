"""Whose speed ours is set against."""
