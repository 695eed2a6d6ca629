"""`fastdeit bench budget`."""
