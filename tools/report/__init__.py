"""`fastdeit report`: one page from what runs and benchmarks left on disk."""
