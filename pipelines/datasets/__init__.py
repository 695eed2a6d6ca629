"""Where the bytes of a dataset are, whatever it lies in: formats, indexes, and writing them."""
