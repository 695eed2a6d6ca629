"""Turning the hue, through PIL's HSV of 8 bits.

Source: PIL libImaging/Convert.c:rgb2hsv_row, hsv2rgb; torchvision
transforms/_functional_pil.py:adjust_hue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.policies.operations import Floats


def prepare(argument: Floats) -> list[NDArray[Any]]:
    """[(n,) int32 steps of 1/256 turn], from arguments."""
    return [argument.astype(np.int32)]


def apply(images: Tensor, steps: Tensor) -> Tensor:
    """Turn the hue of each of (n, H, W, 3) uint8 by (n,) int32 steps; 256 are a whole turn.

    As in PIL, even 0 steps change values, by the rounding to HSV.
    """
    hue, saturation, value = _rgb_to_hsv(images)
    return hsv_to_rgb((hue + steps[:, None, None]) & 255, saturation, value)


def _rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, H, W, 3) uint8 to three of (n, H, W) int32, each from 0 to 255."""
    pixels = images.float()
    red, green, blue = pixels.unbind(-1)
    most, least = pixels.amax(-1), pixels.amin(-1)
    spread = most - least
    grey = spread == 0
    divisor = torch.where(grey, 1.0, spread)
    from_red, from_green, from_blue = ((most - c) / divisor for c in (red, green, blue))
    # C adds 2.0 and 4.0 in float64 and keeps float32.
    green_hue = (from_red.double() + 2.0 - from_blue).float()
    blue_hue = (from_green.double() + 4.0 - from_red).float()
    hue = torch.where(
        red == most, from_blue - from_green, torch.where(green == most, green_hue, blue_hue)
    )
    turn = (_over(hue.double(), 6.0) + 1.0).fmod(1.0).float()
    saturation = spread / torch.where(grey, 1.0, most)
    hue_255 = torch.where(grey, 0, (turn.double() * 255.0).int())
    return hue_255, (saturation.double() * 255.0).int(), most.int()


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Three of (n, H, W) int32, each from 0 to 255, to (n, H, W, 3) uint8."""
    sixth = _over(hue.double() * 6.0, 255.0)
    whole = sixth.floor()
    # C keeps these two in float32.
    rest = (sixth - whole).float().double()
    strength = _over(saturation.double(), 255.0).float().double()
    most = value.double()
    low = _round(most * (1.0 - strength))
    falling = _round(most * (1.0 - strength * rest))
    rising = _round(most * (1.0 - strength * (1.0 - rest)))
    sector = whole.long().remainder(6)
    v = value
    red = torch.stack((v, falling, low, low, rising, v))
    green = torch.stack((rising, v, v, falling, low, low))
    blue = torch.stack((low, low, rising, v, v, falling))
    planes = [c.gather(0, sector[None])[0] for c in (red, green, blue)]
    return torch.stack(planes, -1).to(torch.uint8)


def _over(values: Tensor, divisor: float) -> Tensor:
    """A true division: on a GPU torch divides by a plain number with its reciprocal."""
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


def _round(values: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    return values.add(0.5).floor_().int()
