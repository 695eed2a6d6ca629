"""Batches to augment."""

from __future__ import annotations

import numpy as np
import torch

from fastdeit.batch import Batch

NUM_CLASSES = 11


def make_batch(size: int = 6, side: int = 32, seed: int = 0) -> Batch:
    """A batch of noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size, side, side, 3)
    return Batch(
        images_nhwc_u8=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        labels=torch.arange(size) % NUM_CLASSES,
        sample_keys=np.arange(100, 100 + size, dtype=np.uint64),
        copies=np.zeros(size, dtype=np.int64),
        epoch=2,
        step=3,
    )
