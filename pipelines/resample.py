"""Antialiased bicubic resampling of uint8 RGB, equal to PIL in every byte.

PIL resamples horizontally first, rounds to 8 bits in between, and computes in fixed point with 22
fractional bits; so does this, and it looks only at the rows and columns that the output needs.

Source: Pillow src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc,
ImagingResampleHorizontal_8bpc, ImagingResampleVertical_8bpc; Keys' cubic with a = -0.5.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

_FRACTION_BITS = 22
_ONE = float(1 << _FRACTION_BITS)
_HALF = np.int32(1 << (_FRACTION_BITS - 1))
_SHIFT = np.int32(_FRACTION_BITS)
_SUPPORT = 2.0
_A = -0.5


@intrinsic
def as_pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001 - numba's signature
    """An integer as a pointer, for numba.carray."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@numba.njit(nogil=True, cache=True)
def _bicubic(x: Any) -> Any:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1.0:
        return ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * _A
    return 0.0


@numba.njit(nogil=True, cache=True)
def _coefficients(in_size: Any, full_size: Any, first: Any, out_size: Any) -> Any:
    """Fixed-point weights of one axis.

    Args:
        in_size: pixels of the source rectangle along the axis.
        full_size: pixels to which the whole rectangle is resampled.
        first: first output pixel that is wanted.
        out_size: how many are wanted.

    Returns:
        (starts (out_size,) int32, counts (out_size,) int32, weights (out_size, taps) int32).
    """
    scale = in_size / full_size
    filter_scale = max(scale, 1.0)
    support = _SUPPORT * filter_scale
    taps = math.ceil(support) * 2 + 1
    starts = np.empty(out_size, dtype=np.int32)
    counts = np.empty(out_size, dtype=np.int32)
    weights = np.zeros((out_size, taps), dtype=np.int32)
    real = np.empty(taps, dtype=np.float64)
    inverse = 1.0 / filter_scale
    for out in range(out_size):
        center = (first + out + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), in_size)
        total = 0.0
        for tap in range(high - low):
            real[tap] = _bicubic((tap + low - center + 0.5) * inverse)
            total += real[tap]
        for tap in range(high - low):
            weight = real[tap] / total if total != 0.0 else real[tap]
            weights[out, tap] = int((-0.5 if weight < 0 else 0.5) + weight * _ONE)
        starts[out], counts[out] = low, high - low
    return starts, counts, weights


@numba.njit(nogil=True, cache=True)
def _clip8(total: Any) -> Any:
    """A fixed-point sum as uint8."""
    return np.uint8(min(max(total >> _SHIFT, np.int32(0)), np.int32(255)))


@numba.njit(nogil=True, cache=True)
def resample_cut(image: Any, cut: Any, out: Any) -> None:
    """Resample one cut of an image.

    Args:
        image: (H, W, 3) uint8.
        cut: (8,) int32, columns as in `crops.CUT`; nothing outside its rectangle is read.
        out: (h, w, 3) uint8, written.
    """
    top, left = cut[0], cut[1]
    out_h, out_w = out.shape[0], out.shape[1]
    x_starts, x_counts, x_weights = _coefficients(cut[3], cut[5], cut[7], out_w)
    y_starts, y_counts, y_weights = _coefficients(cut[2], cut[4], cut[6], out_h)
    first_row = y_starts[0]
    num_rows = y_starts[out_h - 1] + y_counts[out_h - 1] - first_row
    rows = np.empty((num_rows, out_w * 3), dtype=np.uint8)
    for row in range(num_rows):
        source = image[top + first_row + row]
        for x in range(out_w):
            red = green = blue = _HALF
            begin = left + x_starts[x]
            for tap in range(x_counts[x]):
                weight = x_weights[x, tap]
                red += np.int32(source[begin + tap, 0]) * weight
                green += np.int32(source[begin + tap, 1]) * weight
                blue += np.int32(source[begin + tap, 2]) * weight
            rows[row, 3 * x] = _clip8(red)
            rows[row, 3 * x + 1] = _clip8(green)
            rows[row, 3 * x + 2] = _clip8(blue)
    total = np.empty(out_w * 3, dtype=np.int32)
    for y in range(out_h):
        total[:] = _HALF
        for tap in range(y_counts[y]):
            weight = y_weights[y, tap]
            source_row = rows[y_starts[y] - first_row + tap]
            for i in range(out_w * 3):
                total[i] += np.int32(source_row[i]) * weight
        for x in range(out_w):
            for channel in range(3):
                out[y, x, channel] = _clip8(total[3 * x + channel])


@numba.njit(nogil=True, cache=True, parallel=True)
def resample_cuts(
    addresses: Any, heights: Any, widths: Any, image_of_cut: Any, cuts: Any, out: Any
) -> None:
    """Resample many cuts of decoded images, in parallel.

    Args:
        addresses: (U,) int64, where each image's (H, W, 3) uint8 begins in memory.
        heights: (U,) int64.
        widths: (U,) int64.
        image_of_cut: (B,) int64, which image each cut is of.
        cuts: (B, 8) int32.
        out: (B, h, w, 3) uint8, written.
    """
    for i in numba.prange(len(cuts)):
        number = image_of_cut[i]
        shape = (heights[number], widths[number], 3)
        image = numba.carray(as_pointer(addresses[number]), shape, np.uint8)
        resample_cut(image, cuts[i], out[i])
