"""Contact sheets: many images on one, to see what a model is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from fastdeit.augment.compose import channel_statistics

GAP = 4
LABEL_PIXELS = 14
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)


def denormalise(images: Tensor) -> NDArray[np.uint8]:
    """Undo `augment.normalise`, as far as values stay in range: (B, H, W, 3) uint8."""
    mean, std = channel_statistics(images.device)
    pixels = (images.float().permute(0, 2, 3, 1) * std + mean) * 255
    result: NDArray[np.uint8] = pixels.round().clamp(0, 255).byte().cpu().numpy()
    return result


def contact_sheet(images: list[NDArray[np.uint8]], labels: list[str], columns: int) -> Image.Image:
    """Lay images, (h, w, 3) uint8 each, out in rows, each with a word below it.

    The largest one sets the size of a cell, to whose width labels are cut.
    """
    cell_h = max(image.shape[0] for image in images)
    cell_w = max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    step_x, step_y = cell_w + GAP, cell_h + LABEL_PIXELS + GAP
    size = (columns * step_x + GAP, rows * step_y + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        x = GAP + number % columns * step_x
        y = GAP + number // columns * step_y
        sheet.paste(Image.fromarray(image), (x, y))
        while label and draw.textlength(label) > cell_w:
            label = label[:-1]
        draw.text((x, y + cell_h + 1), label, fill=INK)
    return sheet
