"""Operations that replace each value of a channel by another: all of them are a table of 256.

A table for each image and channel is made, on the host where it needs no pixels, and every image of
the group is looked up at once.

Source: PIL ImageOps.py:autocontrast, equalize, invert, posterize, solarize;
ImageEnhance.py:Brightness, Contrast with libImaging/Blend.c; timm
data/auto_augment.py:solarize_add, posterize.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.augment.batched.blend import blend, luminance
from fastdeit.policies.operations import Floats, Op

OPS = frozenset(
    (
        Op.AUTO_CONTRAST,
        Op.EQUALIZE,
        Op.INVERT,
        Op.POSTERIZE,
        Op.SOLARIZE,
        Op.SOLARIZE_ADD,
        Op.BRIGHTNESS,
        Op.CONTRAST,
    )
)

VALUES = np.arange(256, dtype=np.int64)
Table = Callable[[Floats], NDArray[Any]]


def prepare(op: NDArray[np.int64], argument: Floats) -> list[NDArray[Any]]:
    """Make what `apply` needs, on the host, from (n,) values in `OPS` and their (n,) arguments.

    [tables (n, 256) uint8, which images want AutoContrast, Equalize, Contrast, and the factors of
    the last].
    """
    tables = np.empty((len(op), 256), dtype=np.uint8)
    tables[:] = VALUES
    for one, table in _HOST_TABLES.items():
        chosen = np.flatnonzero(op == one)
        if len(chosen):
            tables[chosen] = table(argument[chosen, None])
    auto, equal, contrast = (
        np.flatnonzero(op == one) for one in (Op.AUTO_CONTRAST, Op.EQUALIZE, Op.CONTRAST)
    )
    return [tables, auto, equal, contrast, argument[contrast].astype(np.float32)]


def _invert(_: Floats) -> NDArray[np.int64]:
    return 255 - VALUES


def _posterize(bits: Floats) -> NDArray[np.int64]:
    # Pillow before 13 gives black for 0 bits and fewer, Pillow 13 an error.
    dropped = np.clip(8 - bits.astype(np.int64), 0, 8)
    return VALUES & ~((1 << dropped) - 1)


def _solarize(threshold: Floats) -> NDArray[np.int64]:
    return np.where(threshold > VALUES, VALUES, 255 - VALUES)


def _solarize_add(add: Floats) -> NDArray[np.int64]:
    return np.where(VALUES < 128, np.minimum(255, VALUES + add.astype(np.int64)), VALUES)


def _brightness(factor: Floats) -> NDArray[np.float32]:
    # Blend.c computes in float32 and truncates.
    return np.clip(factor.astype(np.float32) * VALUES.astype(np.float32), 0, 255)


_HOST_TABLES: dict[Op, Table] = {
    Op.INVERT: _invert,
    Op.POSTERIZE: _posterize,
    Op.SOLARIZE: _solarize,
    Op.SOLARIZE_ADD: _solarize_add,
    Op.BRIGHTNESS: _brightness,
}


def apply(
    images: Tensor, tables: Tensor, auto: Tensor, equal: Tensor, contrast: Tensor, factor: Tensor
) -> Tensor:
    """Look every value of (n, H, W, 3) uint8 up in its image's and channel's table.

    `tables` is (n, 256) uint8; `auto`, `equal` and `contrast` are int64 indices of the images whose
    tables need their pixels, `factor` the float32 of the last.
    """
    num, height, width, channels = images.shape
    lookup = tables[:, :, None].expand(num, 256, channels).contiguous()
    if len(auto):
        lookup.index_copy_(0, auto, _auto_contrast_tables(images.index_select(0, auto)))
    if len(equal):
        lookup.index_copy_(0, equal, _equalize_tables(images.index_select(0, equal)))
    if len(contrast):
        table = _contrast_tables(images.index_select(0, contrast), factor)
        lookup.index_copy_(0, contrast, table[:, :, None].expand(-1, 256, channels))
    index = images.view(num, height * width, channels).long()
    return torch.gather(lookup, 1, index).view(images.shape)


def _auto_contrast_tables(images: Tensor) -> Tensor:
    """(n, 256, 3) uint8: each channel's least value goes to 0, its greatest to 255."""
    num, _, width, channels = images.shape
    rows = images.view(num, -1, width * channels)  # wide rows: narrow ones are slow to reduce
    low = rows.amin(1).view(num, width, channels).amin(1)[:, None].double()
    high = rows.amax(1).view(num, width, channels).amax(1)[:, None].double()
    value = torch.arange(256, device=images.device, dtype=torch.float64)[None, :, None]
    scale = torch.full_like(high, 255.0) / (high - low)  # `255 / x` would be a reciprocal
    # Two roundings, as in PIL: a fused multiply and add would differ.
    table = (value * scale).add_(-low * scale).clamp_(0, 255)
    return torch.where(high > low, table, value).to(torch.uint8)


def _equalize_tables(images: Tensor) -> Tensor:
    """(n, 256, 3) uint8: each channel's histogram is flattened."""
    num, height, width, channels = images.shape
    device = images.device
    table_of = torch.arange(num * channels, device=device).view(num, 1, channels) * 256
    bins = images.view(num, height * width, channels) + table_of
    counts = torch.zeros(num * channels * 256, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    counts.scatter_add_(0, bins.view(-1), one.expand(bins.numel()))
    counts = counts.view(num * channels, 256)
    value = torch.arange(256, device=device)
    last = torch.where(counts > 0, value, -1).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    before = counts.cumsum(1) - counts
    flat = ((step // 2 + before) // step.clamp(min=1)).clamp_(max=255)
    # Where all values are equal, step is 0 too.
    table = torch.where(step > 0, flat, value)
    return table.view(num, channels, 256).transpose(1, 2).to(torch.uint8)


def _contrast_tables(images: Tensor, factor: Tensor) -> Tensor:
    """(n, 256) uint8: values move away from the mean of the grey image, or towards it."""
    grey = luminance(images.float()).flatten(1).sum(1, dtype=torch.float64)
    mean = (grey / (images.shape[1] * images.shape[2]) + 0.5).floor_().float()[:, None]
    value = torch.arange(256, device=images.device, dtype=torch.float32)
    return blend(mean, value[None], factor[:, None])
