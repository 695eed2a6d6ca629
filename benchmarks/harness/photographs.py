"""Pictures like photographs, made from a seed: a benchmark needs no download.

Smooth shapes at every scale, edges and sensor noise, so that a JPEG of one is as large and takes
as long to decode as one of ImageNet's at 500 pixels and quality 90 (51 kB on average).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (375, 500), (500, 333), (500, 500))
"""Width and height, in turn; ImageNet's commonest."""
QUALITY = 90
NOISE = 6.0
"""Standard deviation in levels: what gives 53 kB on average."""


def photograph(number: int) -> Image.Image:
    """The picture of a number, which is also its seed: RGB, of one of `SIZES`."""
    generator = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((3, 1.0), (8, 0.5), (24, 0.3), (80, 0.18)):
        coarse = generator.random((cells, cells, 3), dtype=np.float32)
        coarse += generator.random((cells, cells, 1), dtype=np.float32)  # colours go together
        bands = [
            Image.fromarray(coarse[..., band], mode="F").resize((width, height), 3)
            for band in range(3)
        ]
        total += weight * np.stack([np.asarray(band) for band in bands], axis=-1)
    edge = generator.integers(0, width), generator.uniform(-1, 1)
    across = np.arange(width)[None] + edge[1] * np.arange(height)[:, None] < edge[0]
    total += 0.5 * across[..., None]
    total = 255 * (total - total.min()) / np.ptp(total)
    total += generator.normal(0, NOISE, total.shape)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def make_imagefolder(
    folder: Path,
    num_images: int,
    num_classes: int,
    workers: int,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write an ImageFolder of distinct pictures, spread evenly over the classes.

    `workers` processes draw; `on_image` is called after each picture.
    """
    for label in range(num_classes):
        (folder / f"class{label:04d}").mkdir(parents=True, exist_ok=True)
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        write = partial(_write, str(folder), num_classes)
        for _ in pool.map(write, range(num_images), chunksize=16):
            on_image()


def _write(folder: str, num_classes: int, number: int) -> None:
    place = Path(folder) / f"class{number % num_classes:04d}" / f"{number:06d}.jpg"
    photograph(number).save(place, quality=QUALITY)
