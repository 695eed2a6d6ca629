"""Images that a dataset holds as one array of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class PixelImage:
    """The pixels of one image."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, (3, H, W) RGB or (H, W) grey."""
    is_channels_first: bool = False

    def read(self) -> NDArray[np.uint8]:
        """See `Request`."""
        pixels = self.pixels
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        elif self.is_channels_first:
            pixels = pixels.transpose(1, 2, 0)
        return np.ascontiguousarray(pixels)


class PixelImages:
    """A request for each image of an array."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        """Wrap (N, H, W, 3) or (N, 3, H, W) RGB, or (N, H, W) grey; else ValueError."""
        self.is_channels_first = data.ndim == 4 and data.shape[3] != 3 and data.shape[1] == 3
        is_rgb = self.is_channels_first or (data.ndim == 4 and data.shape[3] == 3)
        if data.dtype != np.uint8 or not (is_rgb or data.ndim == 3):
            raise ValueError(f"an array {data.shape} of {data.dtype}")
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> PixelImage:
        return PixelImage(self.data[number], self.is_channels_first)
