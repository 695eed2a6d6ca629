"""Random Erasing: rectangles of an image become noise, one colour, or its mean.

Source: Zhong et al., arXiv:1708.04896; timm data/random_erasing.py:RandomErasing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import keyed
from fastdeit.augment.upload import upload
from fastdeit.config.augment import EraseMode
from fastdeit.keyed import U64

MIN_AREA_FRAC, MAX_AREA_FRAC = 0.02, 1 / 3
MIN_LOG_ASPECT = math.log(0.3)
NUM_ATTEMPTS = 10
DRAWS_PER_ATTEMPT = 4
FIRST_BOX_DRAW = 3


@dataclass(frozen=True, slots=True)
class Erasure:
    """Up to K rectangles an image, one after another; those of no height erase nothing."""

    top: NDArray[np.int64]
    """(K, B) first row."""
    left: NDArray[np.int64]
    """(K, B) first column."""
    height: NDArray[np.int64]
    """(K, B) rows, 0 where nothing is erased."""
    width: NDArray[np.int64]
    """(K, B) columns."""
    noise_seeds: NDArray[np.int64]
    """(K, B) the seed of each rectangle's noise, its 64 bits read as signed."""
    mode: EraseMode = "pixel"
    """Normal noise for each pixel, one normal colour for each rectangle, or 0 (the mean colour)."""

    def take(self, index: NDArray[np.int64]) -> Erasure:
        """The rectangles of some of the images."""
        return Erasure(
            self.top[:, index],
            self.left[:, index],
            self.height[:, index],
            self.width[:, index],
            self.noise_seeds[:, index],
            self.mode,
        )


def sample_erasure(
    states: U64,
    prob: float,
    height: int,
    width: int,
    mode: EraseMode = "pixel",
    max_count: int = 1,
    num_splits: int = 0,
) -> Erasure:
    """Draw the rectangles of B images from (B,) keyed streams.

    An image that is erased gets 1 to `max_count` rectangles, which share its area: 2% to a third of
    the image, with log-uniform aspect from 0.3 to 1 / 0.3; the first of ten attempts that is
    strictly smaller than the image counts. With `num_splits` of 2 or more, the first 1 / num_splits
    of the batch is left clean.
    """
    num = len(states)
    top, left, rows, cols = (np.zeros((max_count, num), dtype=np.int64) for _ in range(4))
    erased = keyed.uniform(states, 0) < prob
    if num_splits > 1:
        erased[: num // num_splits] = False
    seeds = [keyed.draw(states, 1)]
    seeds += [keyed.absorb(seeds[0], np.array([k], dtype=np.uint64)) for k in range(1, max_count)]
    count = 1 + (keyed.uniform(states, 2) * max_count).astype(np.int64)
    for box in range(max_count):
        open_ = erased & (box < count)
        for attempt in range(NUM_ATTEMPTS):
            first = FIRST_BOX_DRAW + (box * NUM_ATTEMPTS + attempt) * DRAWS_PER_ATTEMPT
            u_area, u_aspect, u_top, u_left = (keyed.uniform(states, first + i) for i in range(4))
            share = MIN_AREA_FRAC + u_area * (MAX_AREA_FRAC - MIN_AREA_FRAC)
            area = share * (height * width) / count
            aspect = np.exp(MIN_LOG_ASPECT + u_aspect * (-MIN_LOG_ASPECT - MIN_LOG_ASPECT))
            h = np.rint(np.sqrt(area * aspect)).astype(np.int64)
            w = np.rint(np.sqrt(area / aspect)).astype(np.int64)
            take = open_ & (h < height) & (w < width)
            rows[box, take], cols[box, take] = h[take], w[take]
            top[box, take] = (u_top * (height - h + 1)).astype(np.int64)[take]
            left[box, take] = (u_left * (width - w + 1)).astype(np.int64)[take]
            open_ &= ~take
    return Erasure(top, left, rows, cols, np.stack(seeds).view(np.int64), mode)


def apply_erasure(images: Tensor, erasure: Erasure) -> Tensor:
    """Replace the rectangles of each of (B, H, W, 3) float, in a copy."""
    out = images.clone(memory_format=torch.contiguous_format)
    num, height, width, _ = images.shape
    for pixels in erased_pixels(erasure, height, width, images.device):
        pixels.write(out, 0, num)
    return out


@dataclass(frozen=True, slots=True)
class ErasedPixels:
    """The pixels of one rectangle an image, image after image, and what they become."""

    place: Tensor
    """(n,) int64 image x H x W + row x W + column."""
    values: Tensor
    """(n, 3) float32."""
    ends: NDArray[np.int64]
    """(B + 1,) where each image's pixels begin, and where the last one's end."""

    def write(self, images: Tensor, first: int, last: int) -> None:
        """Write into `images`, which are the contiguous (n, H, W, 3) from `first` to `last`."""
        start, stop = int(self.ends[first]), int(self.ends[last])
        if start == stop:
            return
        _, height, width, channels = images.shape
        place = self.place[start:stop] - first * height * width
        values = self.values[start:stop].to(images.dtype)
        images.view(-1, channels).index_copy_(0, place, values)


def erased_pixels(
    erasure: Erasure, height: int, width: int, device: torch.device
) -> list[ErasedPixels]:
    """What is erased, as lists of pixels: only these are visited, and no more noise is made.

    One list for each rectangle that an image may have, to be written in this order: a later one
    covers an earlier one. With the number of pixels known on the host, nothing waits.
    """
    lists = []
    for h, w, top, left, seed in zip(
        erasure.height,
        erasure.width,
        erasure.top,
        erasure.left,
        erasure.noise_seeds,
        strict=True,
    ):
        area = h * w
        ends = np.concatenate(([0], np.cumsum(area)))
        total = int(ends[-1])
        if total == 0:
            continue
        corner = (np.arange(len(h)) * height + top) * width + left
        arrays: list[NDArray[Any]] = [area, ends[:-1], w, corner, seed]
        areas, starts, widths, corners, seeds = upload(arrays, device)
        of = torch.repeat_interleave(areas, output_size=total)
        place = torch.arange(total, device=device).sub_(starts[of])
        if erasure.mode == "pixel":
            values = keyed_normal(seeds[of], place)
        elif erasure.mode == "rand":
            values = keyed_normal(seeds, torch.zeros_like(seeds))[of]
        else:
            values = torch.zeros((1, 1), device=device).expand(total, 3)
        row = place // widths[of]
        index = corners[of].add_(row * width).add_(place - row * widths[of])
        lists.append(ErasedPixels(index, values, ends))
    return lists


def keyed_normal(seeds: Tensor, place: Tensor) -> Tensor:
    """(n, 3) float32 N(0, 1), a pure function of (n,) int64 seeds and places from 0, below 2^62."""
    # SplitMix64 on int64 (multiplication wraps alike), two words a place, then Box-Muller over
    # 24-bit uniforms: each word gives a pair, of which the last number is not used.
    first = _mix64(seeds + (place * 2 + 1) * _signed(int(keyed.GOLDEN)))
    second = _mix64(seeds + (place * 2 + 2) * _signed(int(keyed.GOLDEN)))
    radius, angle = _polar(first)
    last_radius, last_angle = _polar(second)
    return torch.stack(
        (radius * angle.cos(), radius * angle.sin(), last_radius * last_angle.cos()), -1
    )


def _polar(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Box-Muller's radius and angle, (n,) float32 each, from the two halves of 64 bits."""
    uniform = (((bits >> 40) & 0xFFFFFF) + 1).float() * 2.0**-24  # in (0, 1]
    turn = (bits & 0xFFFFFF).float() * 2.0**-24
    return torch.sqrt(-2 * torch.log(uniform)), 2 * math.pi * turn


def _mix64(z: Tensor) -> Tensor:
    """`keyed.mix64` on int64; torch has no uint64 arithmetic, so shifts drop the sign's copies."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _signed(word: int) -> int:
    """A 64-bit word read as a signed integer."""
    return word - (1 << 64) if word >= 1 << 63 else word
