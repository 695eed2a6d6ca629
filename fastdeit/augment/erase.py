"""Random Erasing in `pixel` mode: a rectangle of an image becomes normal noise.

Source: Zhong et al., arXiv:1708.04896; timm data/random_erasing.py:RandomErasing._erase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import keyed
from fastdeit.keyed import U64

MIN_AREA_FRAC, MAX_AREA_FRAC = 0.02, 1 / 3
MIN_LOG_ASPECT = math.log(0.3)
NUM_ATTEMPTS = 10
DRAWS_PER_ATTEMPT = 4


@dataclass(frozen=True, slots=True)
class Erasure:
    """One rectangle an image; those of no height erase nothing."""

    top: NDArray[np.int64]
    """(B,) first row."""
    left: NDArray[np.int64]
    """(B,) first column."""
    height: NDArray[np.int64]
    """(B,) rows, 0 where nothing is erased."""
    width: NDArray[np.int64]
    """(B,) columns."""
    noise_seeds: NDArray[np.int64]
    """(B,) the seed of each image's noise, its 64 bits read as signed."""


def sample_erasure(states: U64, prob: float, height: int, width: int) -> Erasure:
    """Draw the rectangles.

    Args:
        states: (B,) uint64, one keyed stream an image.
        prob: probability that an image is erased.
        height: rows of an image.
        width: columns of an image.

    Returns:
        Rectangles of 2% to a third of the area with log-uniform aspect from 0.3 to 1 / 0.3; the
        first of ten attempts that is strictly smaller than the image counts.
    """
    num = len(states)
    top, left, rows, cols = (np.zeros(num, dtype=np.int64) for _ in range(4))
    open_ = keyed.uniform(states, 0) < prob
    for attempt in range(NUM_ATTEMPTS):
        first = 2 + attempt * DRAWS_PER_ATTEMPT
        u_area, u_aspect, u_top, u_left = (keyed.uniform(states, first + i) for i in range(4))
        area = (MIN_AREA_FRAC + u_area * (MAX_AREA_FRAC - MIN_AREA_FRAC)) * height * width
        aspect = np.exp(MIN_LOG_ASPECT * (1 - 2 * u_aspect))
        h = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        w = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        take = open_ & (h < height) & (w < width)
        rows[take], cols[take] = h[take], w[take]
        top[take] = (u_top * (height - h + 1)).astype(np.int64)[take]
        left[take] = (u_left * (width - w + 1)).astype(np.int64)[take]
        open_ &= ~take
    return Erasure(top, left, rows, cols, keyed.draw(states, 1).view(np.int64))


def apply_erasure(images: Tensor, erasure: Erasure) -> Tensor:
    """Replace each image's rectangle by N(0, 1) noise, one number a pixel and channel.

    Args:
        images: (B, 3, H, W) float, normalised.
        erasure: rectangles for these B images.

    Returns:
        The same shape, dtype and memory format. The noise of an image is the same whatever batch
        it is in.
    """
    chosen = np.flatnonzero(erasure.height)
    if len(chosen) == 0:
        return images
    device, (_, channels, height, width) = images.device, images.shape

    def column(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values[chosen]).to(device, non_blocking=True)[:, None]

    row = torch.arange(height, device=device)[None, :]
    col = torch.arange(width, device=device)[None, :]
    top, left = column(erasure.top), column(erasure.left)
    in_rows = (row >= top) & (row < top + column(erasure.height))
    in_cols = (col >= left) & (col < left + column(erasure.width))
    inside = (in_rows[:, :, None] & in_cols[:, None, :])[:, None]  # (b, 1, H, W)

    noise = keyed_normal(column(erasure.noise_seeds), height * width * channels)
    noise = noise.view(-1, height, width, channels).permute(0, 3, 1, 2).to(images.dtype)
    index = torch.from_numpy(chosen).to(device, non_blocking=True)
    out = images.clone()
    out[index] = torch.where(inside, noise, images[index])
    return out


def keyed_normal(seeds: Tensor, count: int) -> Tensor:
    """Normal noise as a pure function of a seed and a position.

    Args:
        seeds: (B, 1) int64.
        count: numbers for each seed.

    Returns:
        (B, count) float32, N(0, 1).

    Note: SplitMix64 on int64 (multiplication wraps alike), then Box-Muller over 24-bit uniforms.
    """
    position = torch.arange(count, device=seeds.device)[None, :]
    bits = _mix64(seeds + position * _signed(int(keyed.GOLDEN)))
    uniform_1 = (((bits >> 40) & 0xFFFFFF) + 1).float() * 2.0**-24  # in (0, 1]
    uniform_2 = (bits & 0xFFFFFF).float() * 2.0**-24
    return torch.sqrt(-2 * torch.log(uniform_1)) * torch.cos(2 * math.pi * uniform_2)


def _mix64(z: Tensor) -> Tensor:
    """`keyed.mix64` on int64; torch has no uint64 arithmetic, so shifts drop the sign's copies."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _signed(word: int) -> int:
    """A 64-bit word read as a signed integer."""
    return word - (1 << 64) if word >= 1 << 63 else word
