"""Operations and policies as timm does them on PIL: what ours are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import (
    NAME_TO_OP,
    auto_augment_transform,
    rand_augment_transform,
)

from fastdeit.policies import Op
from fastdeit.policies.policy import FILL

TIMM_NAMES = {
    Op.AUTO_CONTRAST: "AutoContrast",
    Op.EQUALIZE: "Equalize",
    Op.INVERT: "Invert",
    Op.POSTERIZE: "Posterize",
    Op.SOLARIZE: "Solarize",
    Op.SOLARIZE_ADD: "SolarizeAdd",
    Op.BRIGHTNESS: "Brightness",
    Op.CONTRAST: "Contrast",
    Op.COLOR: "Color",
    Op.SHARPNESS: "Sharpness",
    Op.GAUSSIAN_BLUR: "GaussianBlur",
    Op.ROTATE: "Rotate",
    Op.SHEAR_X: "ShearX",
    Op.SHEAR_Y: "ShearY",
    Op.TRANSLATE_X: "TranslateX",
    Op.TRANSLATE_Y: "TranslateY",
}


def timm_policy(config: str) -> Any:
    """Make timm's transform of the same string, on PIL images, as its training makes it."""
    make = rand_augment_transform if config.startswith("rand") else auto_augment_transform
    return make(config, {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC})


def apply_with_pil(
    image: Image.Image,
    op: Op,
    argument: float,
    fill: tuple[int, int, int],
    is_bilinear: bool = False,
) -> Image.Image:
    """Do one operation to an RGB image by timm's function, or for the hue by torchvision's.

    `argument` is as `Op` says; `fill` is the RGB of what lies outside an image that is moved. For
    IDENTITY the same image comes back.
    """
    if op == Op.IDENTITY:
        return image
    if op == Op.HUE:
        hue, saturation, value = image.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hue) + np.int32(argument).astype(np.uint8))
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    given: dict[str, Any] = {}
    if op >= Op.ROTATE:
        kind = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
        given = {"fillcolor": fill, "resample": kind}
    args: tuple[float, ...] = () if op <= Op.INVERT else (float(argument),)
    if op in (Op.POSTERIZE, Op.SOLARIZE_ADD):
        args = (int(argument),)
    function: Any = NAME_TO_OP[TIMM_NAMES[op]]
    result: Image.Image = function(image, *args, **given)
    return result
