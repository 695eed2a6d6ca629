"""Bringing a step's decisions to its device in one copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 16
"""Bytes; each array begins at a multiple, so that any dtype can be viewed there."""


def upload(arrays: list[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays of the host as tensors on a device.

    Args:
        arrays: of any dtypes and shapes.
        device: a CPU takes them without a copy.

    Returns:
        A tensor for each array.

    Note: on a GPU all of them travel in one pinned block, behind what the stream does already, and
    nobody waits. Dozens of small copies from pageable memory would cost more than the work itself.
    """
    arrays = [np.ascontiguousarray(array) for array in arrays]
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    block = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = block.numpy()
    for array, start in zip(arrays, starts, strict=True):
        host[start : start + array.nbytes] = array.view(np.uint8).reshape(-1)
    there = block.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(_DTYPES[array.dtype.name]).view(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]


_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
    "float64": torch.float64,
}
