"""Images on which an augmentation could differ from PIL: photographs, noise, flat, narrow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

SIZES = [(32, 32), (224, 224), (384, 200), (33, 57), (100, 100), (40, 1), (1, 40), (2, 2), (1, 1)]
"""(height, width); 100 makes many shifts whole numbers but for the last bit."""


def pictures(height: int, width: int) -> NDArray[np.uint8]:
    """(5, height, width, 3): a photograph, noise, one grey, half saturated, two values."""
    generator = np.random.default_rng(height * 1000 + width)
    photo = np.asarray(Image.fromarray(data.astronaut()).resize((width, height)))
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    saturated = photo.copy()
    saturated[: height // 2] = 255
    saturated[:, : width // 3] = 0
    two = generator.choice(np.array([3, 250], dtype=np.uint8), (height, width, 3))
    return np.stack([photo, noise, np.full_like(photo, 200), saturated, two])
