"""What is read, and how it is cut into batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdeit.config.rules import Effect, Rule, check

Dataset = Literal["imagenet", "cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19"]
PADDED_UP_TO = 32
"""Up to this image size DeiT pads and cuts instead of resizing (CIFAR from scratch)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, and how it is cut into batches."""

    train: Path
    """Training set: a .beton, a folder of WebDataset shards or an ImageFolder."""
    val: Path
    """Validation set, in any of the same containers."""
    engine: Literal["auto", "ffcv", "dali", "pil", "synthetic"] = "auto"
    """What decodes: ffcv (.beton only), dali, pil, or the fastest that is installed; synthetic
    is noise, to see how fast the rest is."""
    image_size: int = 224
    """Side of the square images that the model sees, in pixels."""
    batch_size: int = 1024
    """Images a step over all processes, repeats counted (the paper's 1,024)."""
    repeats: int = 3
    """Repeated augmentation: how often an image is shown in an epoch, 1 to switch it off."""
    sampling: Literal["natural", "sqrt", "balanced"] = "natural"
    """How often each class is shown: natural, as often as it has images; sqrt, in proportion to the
    square root of their number; balanced, as often as every other. An epoch stays as long."""
    train_crop: Literal["auto", "resized", "padded", "center"] = "auto"
    """resized (RandomResizedCrop), padded (a random part of the image with a black border of 4
    pixels), center (that of evaluation: FixRes), or auto: padded up to 32 pixels, as DeiT does."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest part of the image's area in a resized crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height of a resized crop."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are resampled, in training and evaluation."""
    eval_crop_ratio: float = 0.875
    """Evaluation resizes the shorter side to image_size divided by this, then cuts the centre."""
    bad_images: Literal["stop", "skip"] = "stop"
    """stop at an image that does not decode, or show its neighbour in its place, and log it."""
    threads: int = 0
    """Decoding threads; 0 takes this process's share of the cores that it may use."""
    dali_device: Literal["cpu", "gpu"] = "cpu"
    """Where DALI decodes: cpu gives PIL's pixels; gpu (with the JPEG engine) differs a little."""
    hw_decoder_load: float = 0.65
    """Part of the images for the GPU's JPEG engine, with --dali-device gpu."""
    dataset: Dataset = "imagenet"
    """Which dataset the recipe is meant for: where --train does not exist yet, --dry-run counts
    with its size, and says where it comes from."""

    def __post_init__(self) -> None:
        check(self, _RANGES, _RULES, _EFFECTS)

    @property
    def crop(self) -> Literal["resized", "padded", "center"]:
        """How training crops, with auto resolved."""
        if self.train_crop != "auto":
            return self.train_crop
        return "padded" if self.image_size <= PADDED_UP_TO else "resized"


_RANGES = {
    "image_size": "[16, inf)",
    "batch_size": "[1, inf)",
    "repeats": "[1, 255]",
    "eval_crop_ratio": "(0, 1]",
    "threads": "[0, inf)",
    "hw_decoder_load": "[0, 1]",
}
_RULES: tuple[Rule, ...] = (
    (
        "dali_device",
        lambda c: c.dali_device == "cpu" or c.engine in ("auto", "dali"),
        "has no effect with engine {0.engine}",
        "Pass --engine dali.",
    ),
    (
        "crop_scale",
        lambda c: 0 < c.crop_scale[0] <= c.crop_scale[1] <= 1,
        "must be two numbers above 0 and at most 1, the smaller first",
        "Pass --crop-scale 0.08 1, say.",
    ),
    (
        "crop_ratio",
        lambda c: 0 < c.crop_ratio[0] <= c.crop_ratio[1],
        "must be two numbers above 0, the smaller first",
        "Pass --crop-ratio 0.75 1.333, say.",
    ),
    (
        "eval_crop_ratio",
        lambda c: c.image_size > PADDED_UP_TO or c.eval_crop_ratio in (0.875, 1),
        f"has no effect up to {PADDED_UP_TO} pixels, where the whole image is looked at",
        "Leave --eval-crop-ratio out.",
    ),
)
_EFFECTS: tuple[Effect, ...] = (
    (
        "crop_scale crop_ratio",
        lambda c: c.crop == "resized",
        "resized crops",
        "Pass --train-crop resized",
    ),
    (
        "hw_decoder_load",
        lambda c: c.dali_device == "gpu",
        "decoding on the GPU",
        "Pass --dali-device gpu",
    ),
)
