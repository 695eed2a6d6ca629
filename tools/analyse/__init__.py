"""`fastdeit analyse`: agreement of models, tokens, and accuracy against epochs and throughput."""
