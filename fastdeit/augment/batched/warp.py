"""Operations that move pixels: rotation, shear, translation, equal to PIL in every byte.

PIL maps the centre of each output pixel back into the source, fills what falls outside, and sums
the neighbours around it in float64 with a cubic kernel (a = -1) or a linear one; then it truncates.
A value that is a whole number up to the last bit may so fall on either side, and does, for
magnitudes like 0.3: equality needs PIL's arithmetic to the last bit, coordinates included.

Shears and translations leave one coordinate as it is, so that 4 neighbours count instead of 16.

Source: PIL libImaging/Geometry.c:affine_transform, bicubic_filter32RGB, bilinear_filter32RGB;
Image.py:rotate for the matrix.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.policies.operations import Floats, Op

OPS = frozenset((Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y))

CLEAR_OF_WHOLE = 1e-7
"""A row's shift with a fraction this far from 0 and 1 has the same whole part all along the row."""


def matrices(op: NDArray[np.int64], argument: Floats, height: int, width: int) -> Floats:
    """Where each output pixel comes from: (n, 6), of (n,) values in `OPS` and their (n,) arguments.

    The pixel centre (x, y) comes from (a x + b y + c, d x + e y + f).
    """
    out = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (len(op), 1))
    for one, place in _ONE_ENTRY.items():
        chosen = op == one
        out[chosen, place] = argument[chosen]
    for i in np.flatnonzero(op == Op.ROTATE):
        out[i] = _rotation(float(argument[i]), height, width)
    return out


_ONE_ENTRY = {Op.SHEAR_X: 1, Op.SHEAR_Y: 3, Op.TRANSLATE_X: 2, Op.TRANSLATE_Y: 5}


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """PIL's matrix, with its roundings."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus_sin = round(-math.sin(angle), 15)
    x, y = width / 2, height / 2
    return (
        cos,
        sin,
        cos * -x + sin * -y + 0.0 + x,
        minus_sin,
        cos,
        minus_sin * -x + cos * -y + 0.0 + y,
    )


def axis_of(matrix: Floats, height: int, width: int) -> NDArray[np.int64]:
    """Along which axis alone pixels move: 2 (x), 1 (y), or 0 where the general way is needed."""
    a, b, c, d, e, f = matrix.T
    only_x = (a == 1) & (d == 0) & (e == 1) & (f == 0)
    only_y = (a == 1) & (b == 0) & (c == 0) & (e == 1)

    def clear(slope: Floats, offset: Floats, length: int) -> NDArray[np.bool_]:
        shift = slope[:, None] * (np.arange(length) + 0.5) + offset[:, None]
        fraction = shift - np.floor(shift)
        is_clear = (fraction > CLEAR_OF_WHOLE) & (fraction < 1 - CLEAR_OF_WHOLE)
        return np.asarray(is_clear.all(1))

    axis = np.zeros(len(matrix), dtype=np.int64)
    axis[only_x & clear(b, c, height)] = 2
    axis[only_y & clear(d, f, width)] = 1
    return axis


def prepare(matrix: Floats, fill: tuple[int, int, int]) -> list[NDArray[Any]]:
    """[(n, 6) float64 matrices, (3,) uint8 fill], for `apply_along` and `apply_any`."""
    return [matrix, np.array(fill, dtype=np.uint8)]


def apply_along(
    images: Tensor, matrix: Tensor, fill: Tensor, *, axis: int, is_bilinear: bool
) -> Tensor:
    """Move the pixels of (n, H, W, 3) uint8 along one axis: that which `axis_of` says."""
    num, height, width, channels = images.shape
    device = images.device
    x, y = _centers(height, width, device)
    m = matrix[:, :, None, None]
    if axis == 2:
        shift = m[:, 1] * y[:, None] + m[:, 2]  # (n, H, 1)
        source, size = (x + m[:, 1] * y[:, None]).add_(m[:, 2]), width
    else:
        shift = m[:, 3] * x + m[:, 5]  # (n, 1, W)
        source, size = (m[:, 3] * x + y[:, None]).add_(m[:, 5]), height
    whole = shift.floor_().long()
    # The neighbours of all pixels of a line are one run of the line: looked up once, not 4 times.
    first, num_taps = (0, 2) if is_bilinear else (-1, 4)
    place = torch.arange(first, size + num_taps - 1 + first, device=device)
    image = torch.arange(num, device=device)[:, None, None] * (height * width)
    if axis == 2:
        line = torch.arange(height, device=device)[:, None] * width + image
        index = (place + whole).clamp_(0, size - 1).add_(line)
    else:
        line = torch.arange(width, device=device) + image
        index = (place[:, None] + whole).clamp_(0, size - 1).mul_(width).add_(line)
    run = images.view(-1, channels).index_select(0, index.view(-1))
    run = run.view(num, *index.shape[1:], channels).flatten(2).short()
    if axis == 2:
        taps = [run[:, :, k * channels : (k + width) * channels] for k in range(num_taps)]
    else:
        taps = [run[:, k : k + height] for k in range(num_taps)]
    inside = (source >= 0) & (source < size)
    source.sub_(0.5)
    fraction = source.sub_(source.floor())
    return _fill_outside(_kernel(taps, _three(fraction)), inside, fill, images.shape)


def apply_any(images: Tensor, matrix: Tensor, fill: Tensor, *, is_bilinear: bool) -> Tensor:
    """Move the pixels of (n, H, W, 3) uint8 by any affine map, (n, 6) float64."""
    num, height, width, channels = images.shape
    device = images.device
    x, y = _centers(height, width, device)
    a, b, c, d, e, f = (column[:, None, None] for column in matrix.unbind(1))
    source_x = (a * x + b * y[:, None]).add_(c)
    source_y = (d * x + e * y[:, None]).add_(f)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    source_x.sub_(0.5)
    source_y.sub_(0.5)
    left, top = source_x.floor(), source_y.floor()
    # What is far outside must not overflow; it is filled anyway.
    column = left.clamp(-2, width).long()
    row = top.clamp(-2, height).long()
    fraction_x, fraction_y = source_x.sub_(left), source_y.sub_(top)
    first, num_taps = (0, 2) if is_bilinear else (-1, 4)
    pixels = images.view(-1, channels)
    image = torch.arange(num, device=device)[:, None, None] * (height * width)
    columns = [(column + first + k).clamp_(0, width - 1) for k in range(num_taps)]
    offset = torch.arange(first, first + num_taps, device=device)[:, None, None, None]
    lines = (row + offset).clamp_(0, height - 1).mul_(width).add_(image)
    # All source lines at a time: a fourth of the launches of one after the other.
    taps = [
        pixels.index_select(0, (lines + place).view(-1)).view(num_taps, num, height, -1).short()
        for place in columns
    ]
    sums = _kernel(taps, _three(fraction_x))
    values = _kernel(list(sums.unbind()), _three(fraction_y))
    return _fill_outside(values, inside, fill, images.shape)


@functools.lru_cache(16)
def _centers(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(W,) and (H,) float64 coordinates of the pixel centres; kept, they are always the same."""
    x = torch.arange(width, device=device, dtype=torch.float64)
    y = torch.arange(height, device=device, dtype=torch.float64)
    return x.add_(0.5), y.add_(0.5)


def _kernel(taps: list[Tensor], d: Tensor) -> Tensor:
    """PIL's linear or cubic kernel, each operation with the rounding that it has there."""
    if len(taps) == 2:
        first, second = taps
        return (second - first).double().mul_(d).add_(first)
    # Differences of taps that are int16 stay so: exact, in a quarter of float64's memory.
    v0, v1, v2, v3 = taps
    p2 = v2 - v0
    p3 = (v0 - v1).mul_(2).add_(v2).sub_(v3)
    p4 = (v1 - v0).sub_(v2).add_(v3)
    return p4.double().mul_(d).add_(p3).mul_(d).add_(p2).mul_(d).add_(v1)


def _three(fraction: Tensor) -> Tensor:
    """(n, H, W) to (n, H, 3 W), each number three times. In memory: broadcasting is slower."""
    return fraction[..., None].expand(*fraction.shape, 3).reshape(*fraction.shape[:2], -1)


def _fill_outside(values: Tensor, inside: Tensor, fill: Tensor, shape: torch.Size) -> Tensor:
    """Values (n, H, 3 W), truncated, where `inside` (n, H, W); `fill` (3,) elsewhere."""
    pixels = values.clamp_(0, 255).to(torch.uint8)
    keep = inside[..., None].expand(shape).reshape(values.shape)
    return torch.where(keep, pixels, fill.repeat(shape[2])).view(shape)
