"""The commands `fastdeit bench WHAT`: what a user may ask for, and what is refused.

Nothing here imports torch before the line is parsed, so that help and errors are quick.
"""
