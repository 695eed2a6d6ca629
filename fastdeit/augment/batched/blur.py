"""Gaussian blur as PIL does it: three box blurs along x, three along y, each rounded to uint8.

Source: PIL ImageFilter.py:GaussianBlur; libImaging/BoxBlur.c:ImagingGaussianBlur,
ImagingLineBoxBlur8 (Gwosdek et al., Theoretical foundations of Gaussian convolution by extended box
filtering, SSVM 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.policies.operations import Floats

NUM_PASSES = 3
UNIT = 1 << 24


def prepare(radius: Floats) -> list[NDArray[Any]]:
    """Weights of the box blurs, from (n,) standard deviations in pixels, 0 or more.

    [(n, R + 2) int32]: the weight of the pixels at distance 0, 1, ..., over 2^24, where R is the
    greatest whole box radius among the n.
    """
    box = _box_radius(radius)
    whole = np.trunc(box).astype(np.int64)
    # float32 and integer division as in C.
    inner = (np.float32(UNIT) / (box * np.float32(2) + np.float32(1))).astype(np.int64)
    outer = (UNIT - (2 * whole + 1) * inner) // 2
    distance = np.arange(whole.max() + 2)
    weights = np.where(distance <= whole[:, None], inner[:, None], 0)
    weights[np.arange(len(box)), whole + 1] = outer
    weights[box == 0] = np.where(distance == 0, UNIT, 0)  # PIL leaves such an image as it is
    return [weights.astype(np.int32)]


def _box_radius(radius: Floats) -> NDArray[np.float32]:
    """(n,) float32: the radius of the boxes of which three give about that Gaussian."""
    one, two, three, six = (np.float32(x) for x in (1, 2, 3, 6))
    sigma = radius.astype(np.float32)
    variance = sigma * sigma / np.float32(NUM_PASSES)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(np.float32)
    whole = np.floor((length.astype(np.float64) - 1.0) / 2.0).astype(np.float32)
    rest = (two * whole + one) * (whole * (whole + one) - three * variance)
    rest = rest / (six * (variance - (whole + one) * (whole + one)))
    return np.asarray(whole + rest, dtype=np.float32)


def apply(images: Tensor, weights: Tensor) -> Tensor:
    """Blur (n, H, W, 3) uint8, with the weights from `prepare`."""
    num, height, width, channels = images.shape
    pixels = images.view(num, height, width * channels)
    for _ in range(NUM_PASSES):
        pixels = _box_blur(pixels.view(num, height, width, channels), weights, 2)
    for _ in range(NUM_PASSES):
        pixels = _box_blur(pixels.view(num, height, width * channels, 1), weights, 1)
    return pixels.view(images.shape)


def _box_blur(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """One box blur along `dim` with the border repeated: (n, H, W * C) uint8."""
    _, height, width, channels = images.shape
    size, reach = images.shape[dim], weights.shape[1] - 1
    place = torch.arange(-reach, size + reach, device=images.device).clamp_(0, size - 1)
    run = images.index_select(dim, place).flatten(2).int()

    def tap(shift: int) -> Tensor:
        start = reach + shift
        if dim == 1:
            return run[:, start : start + height]
        return run[:, :, start * channels : (start + width) * channels]

    # Sums reach 2^32: they wrap in int32, and the mask takes the sign away again.
    total = tap(0) * weights[:, 0, None, None]
    for distance in range(1, reach + 1):
        pair = (tap(-distance) + tap(distance)).mul_(weights[:, distance, None, None])
        total.add_(pair)
    return total.add_(1 << 23).bitwise_right_shift_(24).bitwise_and_(255).to(torch.uint8)
