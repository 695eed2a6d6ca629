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
    """Arrays of the host as tensors on a device; a CPU takes them without a copy.

    On a GPU all of them travel in one pinned block, behind what the stream does already, and nobody
    waits. Dozens of small copies from pageable memory would cost more than the work itself.
    """
    arrays = [np.ascontiguousarray(array) for array in arrays]
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    block = torch.empty(block_bytes(arrays), dtype=torch.uint8, pin_memory=device.type == "cuda")
    fill_block(block, arrays)
    return views_of_block(block.to(device, non_blocking=True), arrays)


def block_bytes(arrays: list[NDArray[Any]]) -> int:
    """How large a block holds all arrays, each at a multiple of `ALIGNMENT`."""
    return sum(_padded(array) for array in arrays)


def fill_block(block: Tensor, arrays: list[NDArray[Any]]) -> None:
    """Write the arrays, C-contiguous, one behind the other, into (bytes,) uint8 on the host."""
    start, there = 0, block.numpy()
    for array in arrays:
        there[start : start + array.nbytes] = np.frombuffer(array, dtype=np.uint8)
        start += _padded(array)


def views_of_block(block: Tensor, arrays: list[NDArray[Any]]) -> list[Tensor]:
    """The arrays in a block (bytes,) uint8, with their dtypes and shapes."""
    tensors, start = [], 0
    for array in arrays:
        there = block[start : start + array.nbytes]
        dtype = torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype
        tensors.append(there.view(dtype).view(array.shape))
        start += _padded(array)
    return tensors


def _padded(array: NDArray[Any]) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT
