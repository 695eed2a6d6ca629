"""How it is measured: rounds, processes, records, the run."""
