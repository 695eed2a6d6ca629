"""The order of the published code, for `--compat upstream`: its samplers, sample for sample.

Unlike ours it depends on the world size, takes no seed but the epoch, deals the copies of an image
to neighbouring ranks (so that each decodes it), and drops the repeats in a single process.

Source: deit samplers.py:RASampler; torch.utils.data.DistributedSampler, which deit main.py takes
    without repeated augmentation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

ROUND_TO = 256
"""RASampler cuts the number of images to a multiple of this."""


def _repeats_in_effect(repeats: int, world_size: int) -> int:
    """Upstream uses RASampler only if it is distributed."""
    return repeats if world_size > 1 else 1


def num_selected(num_images: int, repeats: int, world_size: int) -> int:
    """How many samples each rank shows in an epoch, before it is cut into steps."""
    if _repeats_in_effect(repeats, world_size) == 1:
        return -(-num_images // world_size)
    return num_images // ROUND_TO * ROUND_TO // world_size


def upstream_order(
    num_images: int, repeats: int, world_size: int, local_batch: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An epoch from 0 over all ranks, step after step and in each step rank after rank.

    A single process takes the permutation that a distributed one would take; upstream draws that
    from torch's global generator, which nothing fixes. The epoch is the seed.

    Returns:
        (sample numbers, copies), each (world_size * whole steps * local_batch,). A sample that pads
        the end counts as one more copy.
    """
    repeats = _repeats_in_effect(repeats, world_size)
    generator = torch.Generator().manual_seed(epoch)
    order = torch.randperm(num_images, generator=generator).numpy()
    total = -(-num_images * repeats // world_size) * world_size
    places = np.arange(total)
    samples = np.repeat(order, repeats)[places % (num_images * repeats)]
    copies = places % repeats + repeats * (places // (num_images * repeats))
    steps = num_selected(num_images, repeats, world_size) // local_batch

    def dealt(values: NDArray[np.int64]) -> NDArray[np.int64]:
        by_rank = values.reshape(-1, world_size).T[:, : steps * local_batch]
        by_step: NDArray[np.int64] = by_rank.reshape(world_size, steps, local_batch).swapaxes(0, 1)
        return by_step.reshape(-1)

    return dealt(samples), dealt(copies)
