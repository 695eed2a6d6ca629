"""Scale on paper: images/s on many GPUs from the measured step of one, and a check of that."""
