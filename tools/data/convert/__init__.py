"""`fastdeit convert` and `merge`."""
