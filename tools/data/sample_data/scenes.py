"""One picture of the sample data: from (seed, split, class, index) to the bytes of its file.

Nothing else enters: not the number of pictures, the workers or the order. ImageNet's oddities sit
on the first picture of a class, one a class, so even the smallest source has all of them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fastdeit.tools.data.sample_data.classes import CLASSES, SampleClass
from fastdeit.tools.data.sample_data.objects import draw_object
from fastdeit.tools.data.sample_data.photos import PHOTOS, cut, develop, load_photos, make_rng

SPLITS = ("train", "val")
SIZES: tuple[tuple[tuple[int, int], float], ...] = (
    ((500, 375), 0.42),
    ((375, 500), 0.12),
    ((500, 333), 0.16),
    ((333, 500), 0.05),
    ((400, 300), 0.06),
    ((300, 400), 0.02),
    ((500, 400), 0.05),
    ((500, 500), 0.04),
    ((640, 480), 0.05),
    ((320, 240), 0.02),
    ((250, 188), 0.01),
)
"""(width, height) of a picture and how often, near to what ImageNet has."""
TINY, HUGE = (20, 17), (4000, 3000)

TRAIN_ODDITIES = (
    "cmyk",
    "png",
    "grey",
    "exif-3",
    "exif-6",
    "exif-8",
    "progressive",
    "tiny",
    "huge",
    "4:4:4",
    "restart-interval",
)
VAL_ODDITIES = ("cmyk", "png", "grey", "exif-6", "progressive", "tiny")
BROKEN = ("truncated", "empty")

# What the tag says must be done to show the picture, undone on the stored pixels.
STORED_AS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Picture:
    """Which picture to make."""

    split: str
    """`train` or `val`."""
    class_id: int
    """Position in CLASSES."""
    index: int
    """Position within split and class."""
    oddity: str = ""
    """What is unusual about its file; empty for a usual one."""


def find_oddity(split: str, class_id: int, index: int, has_broken: bool) -> str:
    """Name the oddity of a picture, by its position within split and class; empty for none.

    `has_broken`: train has files that cannot be decoded.
    """
    if split == "train":
        kinds = TRAIN_ODDITIES + (BROKEN if has_broken else ())
    else:
        # From the other end, so that val does not repeat train's pairs of class and oddity.
        kinds, class_id = VAL_ODDITIES, len(CLASSES) - 1 - class_id
    return kinds[class_id] if index == 0 and class_id < len(kinds) else ""


def make_picture(seed: int, picture: Picture) -> bytes:
    """Make the file of one picture."""
    sample_class = CLASSES[picture.class_id]
    rng = make_rng(seed, SPLITS.index(picture.split), sample_class.number, picture.index)
    if picture.oddity == "empty":
        return b""
    size = _random_size(rng)
    if picture.oddity == "tiny":
        size = TINY
    elif picture.oddity == "huge":
        size = (HUGE[0] // 4, HUGE[1] // 4)
    return encode(_draw_scene(sample_class, size, rng), picture.oddity, rng)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a picture's size as ImageNet has them."""
    shares = np.cumsum([share for _, share in SIZES])
    place = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    return SIZES[min(place, len(SIZES) - 1)][0]


def _draw_scene(
    sample_class: SampleClass, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """Draw a picture of a class: a part of its photograph, or its object before any photograph."""
    photos = load_photos()
    if sample_class.photos:
        name = sample_class.photos[rng.integers(len(sample_class.photos))]
        return develop(cut(photos[name], size, rng), rng)
    # All photographs, those of the photo classes too: the object must decide, not what is behind.
    name = tuple(PHOTOS)[rng.integers(len(PHOTOS))]
    image = cut(photos[name], size, rng, area=(0.3, 1.0))
    for _ in range(2 if rng.random() < 0.25 else 1):
        draw_object(image, sample_class.shape, rng)
    return develop(image, rng)


def encode(image: Image.Image, oddity: str, rng: np.random.Generator) -> bytes:
    """Encode a picture as a JPEG of a random quality, or as what `oddity` says."""
    options: dict[str, Any] = {"quality": int(rng.integers(94, 98))}
    kind = "JPEG"
    if oddity == "cmyk":
        image = image.convert("CMYK")
    elif oddity == "png":
        kind, options = "PNG", {"compress_level": 6}
    elif oddity == "grey":
        image = image.convert("L")
    elif oddity.startswith("exif-"):
        orientation = int(oddity[-1])
        image = image.transpose(STORED_AS[orientation])
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        options["exif"] = exif
    elif oddity == "progressive":
        options["progressive"] = True
    elif oddity == "huge":
        image = image.resize(HUGE, Image.Resampling.BICUBIC)
        options["quality"] = 85  # stays below 4 MB
    elif oddity == "4:4:4":
        options["subsampling"] = 0
    elif oddity == "restart-interval":
        options["restart_marker_rows"] = 1
    file = io.BytesIO()
    image.save(file, kind, **options)
    data = file.getvalue()
    return data[: len(data) * 3 // 5] if oddity == "truncated" else data
