"""Operations that blend an image with another made from it: colour and sharpness.

Source: PIL ImageEnhance.py:Color, Sharpness; libImaging/Blend.c, Convert.c (L), Filter.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.policies.operations import Floats


def prepare(argument: Floats) -> list[NDArray[Any]]:
    """[(n,) float32 factors], from arguments; PIL blends with a float32 too."""
    return [argument.astype(np.float32)]


def blend(from_: Tensor, to: Tensor, factor: Tensor) -> Tensor:
    """`from_` + factor x (`to` - `from_`), clipped to 0 .. 255 and truncated: uint8.

    All are float32 and broadcast; `from_` and `to` hold whole numbers.
    """
    # Three kernels with a rounding each, as in C: a fused multiply and add would differ.
    return (to - from_).mul_(factor).add_(from_).clamp_(0, 255).to(torch.uint8)


def luminance(images: Tensor) -> Tensor:
    """PIL's grey value (ITU-R 601-2 in 16 bits): (n, H, W, 3) to (n, H, W), whole float32."""
    red, green, blue = images.unbind(-1)
    # The sums stay below 2^24, so float32 holds them exactly.
    total = (red * 19595.0).add_(green * 38470.0).add_(blue * 7471.0)
    return total.add_(32768.0).mul_(2.0**-16).floor_()


def apply_color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each of (n, H, W, 3) uint8 with its grey version; factors (n,) float32, 0 is grey."""
    pixels = images.float()
    # Expanded in memory: broadcasting over a last axis of 3 is slower.
    grey = luminance(pixels)[..., None].expand(images.shape).contiguous()
    return blend(grey, pixels, factor[:, None, None, None])


def apply_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each of (n, H, W, 3) uint8 with its smoothed version; the outermost pixels stay.

    Of the (n,) float32 factors 0 gives the smoothed image. Images of less than 3 pixels in height
    or width come back as they are.
    """
    num, height, width, channels = images.shape
    if height < 3 or width < 3:
        return images
    rows = images.view(num, height, width * channels).short()
    column = (rows[:, :-2] + rows[:, 1:-1]).add_(rows[:, 2:])
    end, c = width * channels, channels
    box = (column[:, :, : end - 2 * c] + column[:, :, c : end - c]).add_(column[:, :, 2 * c :])
    center = rows[:, 1:-1, c : end - c]
    # The kernel is ((1, 1, 1), (1, 5, 1), (1, 1, 1)) / 13, rounded. A sum over 13 is never half way
    # between two numbers, and at least 1/26 from it: float32 rounds it as PIL does.
    smooth = box.add_(center, alpha=4).float().mul_(1 / 13).add_(0.5).floor_()
    out = images.clone()
    inner = blend(smooth, center.float(), factor[:, None, None])
    out.view(num, height, end)[:, 1:-1, c : end - c] = inner
    return out
