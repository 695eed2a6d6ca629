"""Inference as in the Tables 5 and 10 of the paper, and Figure 1."""
