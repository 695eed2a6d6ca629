"""Antialiased resampling of uint8 RGB, equal to PIL in every byte, several times as fast.

PIL resamples horizontally first, rounds to 8 bits in between, and computes in fixed point with 22
fractional bits; so does this, and it looks only at the rows and columns that the output needs.

Both passes are weighted sums of equal vectors of bytes, which `_weighted_sum` writes in LLVM's
portable vectors. The vertical pass takes them from the rows as they lie. The horizontal pass first
turns `ROWS` rows at a time, so that their pixels at one column are neighbours in memory; a pixel
moves as a word of four bytes, whose fourth belongs to its neighbour and is overwritten or ignored.

Source: Pillow src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc,
ImagingResampleHorizontal_8bpc, ImagingResampleVertical_8bpc; Keys' cubic with a = -0.5.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastdeit.machine.numba_cache import compiled
from fastdeit.pipelines.plan.crops import BILINEAR

ROWS = 8
"""Rows turned at a time."""
WORD = 4
LANES = ROWS * WORD
"""Bytes summed at a time."""

_FRACTION_BITS = 22
_ONE = float(1 << _FRACTION_BITS)
_A = -0.5

_BYTE, _INT, _ADDRESS = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _INTS = ir.VectorType(_BYTE, LANES), ir.VectorType(_INT, LANES)


@intrinsic
def as_pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001 - numba's signature
    """An integer as a pointer, for numba.carray."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@intrinsic
def _copy_word(typing_context: Any, source: Any, destination: Any) -> Any:  # noqa: ARG001
    """Copy four bytes from address to address, which need no alignment."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        source, destination = (builder.inttoptr(arg, _INT.as_pointer()) for arg in args)
        builder.store(builder.load(source, align=1), destination, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def _weighted_sum(
    typing_context: Any,  # noqa: ARG001
    source: Any,  # noqa: ARG001
    stride: Any,  # noqa: ARG001
    weights: Any,  # noqa: ARG001
    count: Any,  # noqa: ARG001
    out: Any,  # noqa: ARG001
) -> Any:
    """Sum `count` vectors of `LANES` bytes, `stride` bytes apart, times fixed-point weights."""

    def same(value: int) -> ir.Constant:
        return ir.Constant(_INTS, [value] * LANES)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        # `source`, `weights` (`count` int32) and `out` are addresses; `LANES` bytes are written to
        # `out`: the rounded sum, cut to 0 to 255.
        source, stride, weights, count, out = args
        total = cgutils.alloca_once_value(builder, same(1 << (_FRACTION_BITS - 1)))
        with cgutils.for_range(builder, count, intp=_ADDRESS) as loop:
            at = builder.add(source, builder.mul(loop.index, stride))
            pixels = builder.load(builder.inttoptr(at, _BYTES.as_pointer()), align=1)
            at = builder.add(weights, builder.mul(loop.index, _ADDRESS(WORD)))
            weight = builder.load(builder.inttoptr(at, _INT.as_pointer()))
            first = builder.insert_element(same(0), weight, _INT(0))
            everywhere = builder.shuffle_vector(first, same(0), same(0))
            product = builder.mul(builder.zext(pixels, _INTS), everywhere)
            builder.store(builder.add(builder.load(total), product), total)
        result = builder.ashr(builder.load(total), same(_FRACTION_BITS))
        for bound, beyond in ((same(0), "<"), (same(255), ">")):
            is_beyond = builder.icmp_signed(beyond, result, bound)
            result = builder.select(is_beyond, bound, result)
        out = builder.inttoptr(out, _BYTES.as_pointer())
        builder.store(builder.trunc(result, _BYTES), out, align=1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@compiled()
def _kernel(radius: Any, x: Any) -> Any:
    """The interpolation's weight at a distance: a triangle, or Keys' cubic convolution."""
    x = abs(x)
    if x >= radius:
        return 0.0
    if radius == BILINEAR:
        return 1.0 - x
    if x < 1.0:
        return ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * _A


@compiled()
def _coefficients(radius: Any, in_size: Any, full_size: Any, first: Any, out_size: Any) -> Any:
    """Fixed-point weights of one axis: starts and counts (out_size,), weights (out_size, taps)."""
    scale = in_size / full_size
    filter_scale = max(scale, 1.0)
    support = radius * filter_scale
    taps = math.ceil(support) * 2 + 1
    starts = np.empty(out_size, dtype=np.int64)
    counts = np.empty(out_size, dtype=np.int64)
    weights = np.zeros((out_size, taps), dtype=np.int32)
    real = np.empty(taps, dtype=np.float64)
    inverse = 1.0 / filter_scale
    for out in range(out_size):
        center = (first + out + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), in_size)
        total = 0.0
        for tap in range(high - low):
            real[tap] = _kernel(radius, (tap + low - center + 0.5) * inverse)
            total += real[tap]
        for tap in range(high - low):
            weight = real[tap] / total if total != 0.0 else real[tap]
            weights[out, tap] = int((-0.5 if weight < 0 else 0.5) + weight * _ONE)
        starts[out], counts[out] = low, high - low
    return starts, counts, weights


@compiled()
def _turn(image: Any, top: Any, left: Any, columns: Any, num_rows: Any, turned: Any) -> None:
    """Copy `ROWS` rows so that word (column, row) is at 4 * (ROWS * column + row) of `turned`."""
    to = turned.ctypes.data
    row_bytes = image.shape[1] * 3
    for row in range(ROWS):
        # Beyond `num_rows` the last row stands again.
        y = top + min(row, num_rows - 1)
        at = image.ctypes.data + y * row_bytes + left * 3
        for x in range(columns - 1):
            _copy_word(at + 3 * x, to + LANES * x + WORD * row)
        # The last pixel may be the image's last, where the fourth byte is somebody else's memory.
        for channel in range(3):
            last = LANES * (columns - 1) + WORD * row + channel
            turned[last] = image[y, left + columns - 1, channel]


@compiled()
def _turn_back(turned: Any, columns: Any, rows: Any, first: Any) -> None:
    """Copy turned words to rows `first` to `first + ROWS` as pixels of three bytes."""
    at, row_bytes = turned.ctypes.data, rows.shape[1]
    for row in range(ROWS):
        to = rows.ctypes.data + (first + row) * row_bytes
        for x in range(columns):
            _copy_word(at + LANES * x + WORD * row, to + 3 * x)


@compiled()
def _sum_columns(turned: Any, first: Any, starts: Any, counts: Any, weights: Any, out: Any) -> None:
    """Horizontal pass over turned rows; `first` is the column of their first word."""
    at, to, weights_at = turned.ctypes.data, out.ctypes.data, weights.ctypes.data
    taps = WORD * weights.shape[1]
    for x in range(len(starts)):
        source = at + LANES * (starts[x] - first)
        _weighted_sum(source, LANES, weights_at + taps * x, counts[x], to + LANES * x)


@compiled()
def _sum_rows(rows: Any, first: Any, starts: Any, counts: Any, weights: Any, out: Any) -> None:
    """Vertical pass; `first` is the number of the first row of `rows`."""
    at, to, weights_at = rows.ctypes.data, out.ctypes.data, weights.ctypes.data
    taps, row_bytes = WORD * weights.shape[1], rows.shape[1]
    wanted = out.shape[1] * 3
    rest = np.empty(LANES, dtype=np.uint8)
    for y in range(len(starts)):
        source, own = at + (starts[y] - first) * row_bytes, weights_at + taps * y
        for x in range(0, wanted - LANES + 1, LANES):
            _weighted_sum(source + x, row_bytes, own, counts[y], to + wanted * y + x)
        x = wanted - wanted % LANES
        if x < wanted:
            _weighted_sum(source + x, row_bytes, own, counts[y], rest.ctypes.data)
            for i in range(x, wanted):
                out[y, i // 3, i % 3] = rest[i - x]


@compiled()
def _resample_inside(image: Any, radius: Any, cut: Any, out: Any) -> None:
    """`resample_cut` of a rectangle that lies inside the image."""
    height, width = out.shape[0], out.shape[1]
    x_starts, x_counts, x_weights = _coefficients(radius, cut[3], cut[5], cut[7], width)
    y_starts, y_counts, y_weights = _coefficients(radius, cut[2], cut[4], cut[6], height)
    row, end_row = y_starts[0], y_starts[-1] + y_counts[-1]
    column, end_column = x_starts[0], x_starts[-1] + x_counts[-1]
    turned = np.empty(LANES * (end_column - column), dtype=np.uint8)
    summed = np.empty(LANES * width, dtype=np.uint8)
    row_bytes = (width * 3 // LANES + 1) * LANES  # the last pixel's fourth byte fits too
    rows = np.empty((end_row - row + ROWS - 1, row_bytes), dtype=np.uint8)
    for first in range(row, end_row, ROWS):
        top, left = cut[0] + first, cut[1] + column
        _turn(image, top, left, end_column - column, end_row - first, turned)
        _sum_columns(turned, column, x_starts, x_counts, x_weights, summed)
        _turn_back(summed, width, rows, first - row)
    _sum_rows(rows, row, y_starts, y_counts, y_weights, out)


@compiled()
def resample_cut(image: Any, radius: Any, cut: Any, out: Any) -> None:
    """Resample one cut of an image (H, W, 3) into `out` (h, w, 3), both uint8 and contiguous.

    `cut` is (8,) int32, columns as in `crops.CUT`; nothing outside its rectangle is read, and what
    of it lies outside the image is black. Source: PIL Image.crop, which allows rectangles beyond
    the image, then Image.resize.
    """
    top, left, height, width = cut[0], cut[1], cut[2], cut[3]
    if top >= 0 and left >= 0 and top + height <= image.shape[0] and left + width <= image.shape[1]:
        _resample_inside(image, radius, cut, out)
        return
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    for y in range(max(top, 0), min(top + height, image.shape[0])):
        for x in range(max(left, 0), min(left + width, image.shape[1])):
            for channel in range(3):
                padded[y - top, x - left, channel] = image[y, x, channel]
    moved = cut.copy()
    moved[:2] = 0
    _resample_inside(padded, radius, moved, out)


@compiled(parallel=True)
def resample_cuts(
    addresses: Any, heights: Any, widths: Any, image_of_cut: Any, radius: Any, cuts: Any, out: Any
) -> None:
    """Resample many cuts (B, 8) int32 of decoded images into (B, h, w, 3) uint8, in parallel.

    `addresses`, `heights` and `widths`, (U,) int64, tell where each image's (H, W, 3) uint8 begins
    in memory; `image_of_cut`, (B,) int64, which image each cut is of.
    """
    for i in numba.prange(len(cuts)):
        number = image_of_cut[i]
        shape = (heights[number], widths[number], 3)
        image = numba.carray(as_pointer(addresses[number]), shape, np.uint8)
        resample_cut(image, radius, cuts[i], out[i])
