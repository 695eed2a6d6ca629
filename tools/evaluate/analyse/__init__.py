"""`fastdeit analyse`."""
