"""Checkpoints: what is in the file, its checksum, and the newest, older and best of a run.

Content is copied to the host beside the running step and written by a thread, into a temporary
file that takes the name only when it is whole.
"""
