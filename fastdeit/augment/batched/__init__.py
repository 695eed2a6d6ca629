"""The operations in batched torch code, on any device."""
