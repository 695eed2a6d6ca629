"""Decoding one image as DeiT does, by PIL: the reference for every engine."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex
from fastdeit.pipelines.datasets.pictures import PictureError, decode_picture


class BadImageError(UserError):
    """An image does not decode."""

    def __init__(self, index: DatasetIndex, sample: int, reason: str) -> None:
        super().__init__(
            f"an image does not decode. Found: {index.describe(sample)} ({reason}). "
            "`fastdeit verify --decode` lists all such images; pass --bad-images skip to show "
            "others in their place, or convert again with --bad skip."
        )
        self.reason = reason


def decode_with_pil(index: DatasetIndex, sample: int) -> Image.Image:
    """Read one image as DeiT does: PIL, converted to RGB, not turned by EXIF.

    Raises BadImageError if it does not decode to the size that the index says; it names the image,
    its key and the reason. Source: torchvision datasets.folder.pil_loader.
    """
    data = index.read(sample)
    size = int(index.widths[sample]), int(index.heights[sample])
    if index.modes[sample] == RAW_MODE:
        return Image.fromarray(np.frombuffer(data, dtype=np.uint8).reshape(size[1], size[0], 3))
    try:
        image = decode_picture(data)
    except PictureError as error:
        raise BadImageError(index, sample, str(error)) from error
    if image.size != size:  # the cuts are of the size in the index
        found = f"{image.width}x{image.height} pixels, where the index says {size[0]}x{size[1]}"
        raise BadImageError(index, sample, found)
    return image
