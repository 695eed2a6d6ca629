"""Conversion of ImageNet and its like: what happens to an image, and how a stop loses nothing."""
