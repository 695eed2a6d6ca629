"""Where images to convert come from."""
