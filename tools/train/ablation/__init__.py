"""`fastdeit ablate`: Table 8."""
