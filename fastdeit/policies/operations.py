"""The operations of the augmentation policies, and what a level means for each.

An operation here is what is done to an image (`Op`) with one number, its argument: degrees, bits,
a factor. What timm calls an operation is a name for an `Op` with a rule that turns a level, from 0
to 10, into that argument: `Posterize` and `PosterizeIncreasing` are two names of one `Op`.

Source: timm data/auto_augment.py:LEVEL_TO_ARG, NAME_TO_OP; torchvision
transforms/autoaugment.py:TrivialAugmentWide._augmentation_space for the names that begin with Wide.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL_DENOM = 10.0
NUM_WIDE_BINS = 31


class Op(IntEnum):
    """What is done to an image, and with what argument."""

    IDENTITY = 0
    AUTO_CONTRAST = 1
    """Each channel is stretched to 0 .. 255."""
    EQUALIZE = 2
    """Each channel's histogram is flattened."""
    INVERT = 3
    """255 - value."""
    POSTERIZE = 4
    """Argument: how many high bits of a value are kept; 8 and more keep all."""
    SOLARIZE = 5
    """Argument: values from this threshold on are inverted."""
    SOLARIZE_ADD = 6
    """Argument: added to values below 128, up to 255."""
    BRIGHTNESS = 7
    """Argument: factor; 0 is black, 1 the image."""
    CONTRAST = 8
    """Argument: factor; 0 is the mean grey, 1 the image."""
    COLOR = 9
    """Argument: factor; 0 is the grey image, 1 the image."""
    SHARPNESS = 10
    """Argument: factor; 0 is the smoothed image, 1 the image."""
    HUE = 11
    """Argument: how far the hue is turned, in steps of 1/256 turn."""
    GAUSSIAN_BLUR = 12
    """Argument: radius (standard deviation) in pixels."""
    ROTATE = 13
    """Argument: degrees counter-clockwise around the centre."""
    SHEAR_X = 14
    """Argument: pixels to the left for each row down."""
    SHEAR_Y = 15
    """Argument: pixels up for each column to the right."""
    TRANSLATE_X = 16
    """Argument: pixels to the left."""
    TRANSLATE_Y = 17
    """Argument: pixels up."""


class Draws(NamedTuple):
    """What the rule of one operation may use, for n applications of it."""

    level: Floats
    """(n,) from 0 to 10, or to the policy's greatest magnitude."""
    sign: Floats
    """(n,) -1 or 1."""
    uniform: Floats
    """(n,) in [0, 1), for rules that draw once more."""
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class NamedOp:
    """An operation with its rule."""

    op: Op
    argument: Callable[[Draws], Floats | float]
    """From levels and signs to the argument."""
    has_sign: bool = False


def _none(_: Draws) -> float:
    return 0.0


def _enhance(d: Draws) -> Floats:
    """From 0.1 to 1.9: weak at level 5."""
    return d.level / LEVEL_DENOM * 1.8 + 0.1


def _enhance_increasing(d: Draws) -> Floats:
    """1 (no change) plus or minus up to 0.9."""
    return np.maximum(0.1, 1.0 + d.sign * (d.level / LEVEL_DENOM * 0.9))


def _posterize(d: Draws) -> Floats:
    return np.trunc(d.level / LEVEL_DENOM * 4)


def _solarize(d: Draws) -> Floats:
    return np.minimum(256, np.trunc(d.level / LEVEL_DENOM * 256))


def _solarize_add(d: Draws) -> Floats:
    return np.minimum(128, np.trunc(d.level / LEVEL_DENOM * 110))


def _wide(low: float, high: float) -> Callable[[Draws], Floats]:
    """One of torchvision's 31 magnitudes from `low` to `high`; the level is its number."""

    @functools.cache
    def bins() -> Floats:
        import torch  # torchvision's magnitudes are torch's float32 ones, to the last bit

        return torch.linspace(low, high, NUM_WIDE_BINS).double().numpy()

    return lambda d: bins()[d.level.astype(np.int64)]


def _wide_signed(low: float, high: float) -> Callable[[Draws], Floats]:
    magnitude = _wide(low, high)
    return lambda d: d.sign * magnitude(d)


def _wide_shear(shear: Callable[[float], float]) -> Callable[[Draws], Floats]:
    """The shear is given as torchvision does, as an angle in degrees, with its rounding."""
    magnitude = _wide_signed(0.0, 0.99)

    def argument(d: Draws) -> Floats:
        angles = [math.radians(math.degrees(math.atan(m))) for m in magnitude(d)]
        return np.array([shear(angle) for angle in angles], dtype=np.float64)

    return argument


def _wide_factor(d: Draws) -> Floats:
    return 1.0 + _wide_signed(0.0, 0.99)(d)


NAMED_OPS: dict[str, NamedOp] = {
    "AutoContrast": NamedOp(Op.AUTO_CONTRAST, _none),
    "Equalize": NamedOp(Op.EQUALIZE, _none),
    "Invert": NamedOp(Op.INVERT, _none),
    "Rotate": NamedOp(Op.ROTATE, lambda d: d.sign * (d.level / LEVEL_DENOM * 30.0), True),
    "Posterize": NamedOp(Op.POSTERIZE, _posterize),
    "PosterizeIncreasing": NamedOp(Op.POSTERIZE, lambda d: 4 - _posterize(d)),
    "PosterizeOriginal": NamedOp(Op.POSTERIZE, lambda d: 4 + _posterize(d)),
    "Solarize": NamedOp(Op.SOLARIZE, _solarize),
    "SolarizeIncreasing": NamedOp(Op.SOLARIZE, lambda d: 256 - _solarize(d)),
    "SolarizeAdd": NamedOp(Op.SOLARIZE_ADD, _solarize_add),
    "Color": NamedOp(Op.COLOR, _enhance),
    "ColorIncreasing": NamedOp(Op.COLOR, _enhance_increasing, True),
    "Contrast": NamedOp(Op.CONTRAST, _enhance),
    "ContrastIncreasing": NamedOp(Op.CONTRAST, _enhance_increasing, True),
    "Brightness": NamedOp(Op.BRIGHTNESS, _enhance),
    "BrightnessIncreasing": NamedOp(Op.BRIGHTNESS, _enhance_increasing, True),
    "Sharpness": NamedOp(Op.SHARPNESS, _enhance),
    "SharpnessIncreasing": NamedOp(Op.SHARPNESS, _enhance_increasing, True),
    "ShearX": NamedOp(Op.SHEAR_X, lambda d: d.sign * (d.level / LEVEL_DENOM * 0.3), True),
    "ShearY": NamedOp(Op.SHEAR_Y, lambda d: d.sign * (d.level / LEVEL_DENOM * 0.3), True),
    "TranslateXRel": NamedOp(
        Op.TRANSLATE_X, lambda d: d.sign * (d.level / LEVEL_DENOM * 0.45) * d.width, True
    ),
    "TranslateYRel": NamedOp(
        Op.TRANSLATE_Y, lambda d: d.sign * (d.level / LEVEL_DENOM * 0.45) * d.height, True
    ),
    "Desaturate": NamedOp(
        # timm: a level from 0.5 to 1, and the factor is what is left of the colour.
        Op.COLOR,
        lambda d: np.clip(1.0 - np.clip(0.5 + 0.5 * (d.level / LEVEL_DENOM), 0.5, 1.0), 0.0, 1.0),
    ),
    "GaussianBlur": NamedOp(
        Op.GAUSSIAN_BLUR, lambda d: np.clip(0.1 + (2.0 - 0.1) * (d.level / LEVEL_DENOM), 0.1, 2.0)
    ),
    "GaussianBlurRand": NamedOp(
        Op.GAUSSIAN_BLUR,
        lambda d: 0.1 + (2.0 * np.clip(d.level / LEVEL_DENOM, 0.0, 1.0) - 0.1) * d.uniform,
    ),
    "WideIdentity": NamedOp(Op.IDENTITY, _none),
    "WideShearX": NamedOp(Op.SHEAR_X, _wide_shear(math.tan), True),
    "WideShearY": NamedOp(Op.SHEAR_Y, _wide_shear(lambda a: math.sin(a) / math.cos(a)), True),
    "WideTranslateX": NamedOp(
        Op.TRANSLATE_X, lambda d: -np.trunc(_wide_signed(0.0, 32.0)(d)), True
    ),
    "WideTranslateY": NamedOp(
        Op.TRANSLATE_Y, lambda d: -np.trunc(_wide_signed(0.0, 32.0)(d)), True
    ),
    "WideRotate": NamedOp(Op.ROTATE, _wide_signed(0.0, 135.0), True),
    "WideBrightness": NamedOp(Op.BRIGHTNESS, _wide_factor, True),
    "WideColor": NamedOp(Op.COLOR, _wide_factor, True),
    "WideContrast": NamedOp(Op.CONTRAST, _wide_factor, True),
    "WideSharpness": NamedOp(Op.SHARPNESS, _wide_factor, True),
    "WidePosterize": NamedOp(
        Op.POSTERIZE, lambda d: 8.0 - np.rint(d.level / ((NUM_WIDE_BINS - 1) / 6))
    ),
    "WideSolarize": NamedOp(Op.SOLARIZE, _wide(255.0, 0.0)),
    "WideAutoContrast": NamedOp(Op.AUTO_CONTRAST, _none),
    "WideEqualize": NamedOp(Op.EQUALIZE, _none),
}
"""Every name that a policy may use."""
