"""The operations on a CPU, one image after another, compiled."""
