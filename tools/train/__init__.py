"""Commands that train: `train`, `teach`, `ablate`."""
