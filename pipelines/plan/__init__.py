"""Which sample is shown when, and where it is cut."""
