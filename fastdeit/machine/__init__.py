"""What computes: devices, processes, threads, signals, and code that is compiled for them."""
