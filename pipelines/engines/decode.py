"""Decoding one image as DeiT does, by PIL: the reference for every engine."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex


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

    Raises BadImageError if it does not decode; it names the image, its key and the reason. Source:
    torchvision datasets.folder.pil_loader.
    """
    data = index.read(sample)
    if index.modes[sample] == RAW_MODE:
        shape = (int(index.heights[sample]), int(index.widths[sample]), 3)
        return Image.fromarray(np.frombuffer(data, dtype=np.uint8).reshape(shape))
    try:
        image = Image.open(io.BytesIO(data))
        return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BadImageError(index, sample, "in no format that PIL knows") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImageError(index, sample, str(error)) from error
