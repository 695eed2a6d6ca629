"""Figures, tables and progress as people read them."""
