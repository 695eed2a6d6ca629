"""Table 5: throughput of inference."""
