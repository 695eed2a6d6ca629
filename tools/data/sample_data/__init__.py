"""`fastdeit sample-data`: photographs that ship inside Python packages, in every layout."""
