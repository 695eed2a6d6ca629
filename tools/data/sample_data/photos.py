"""Photographs from Python packages, cut and lit at random. `make_photo` is the short way in.

The packages are never imported: the pictures are files in their folders, and finding a folder is
some hundred times faster than importing scikit-learn.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from fastdeit.errors import UserError
from fastdeit.pipelines.datasets.pictures import decode_picture

SKIMAGE = ("scikit-image", "skimage", "data")
SKLEARN = ("scikit-learn", "sklearn", "datasets/images")
MATPLOTLIB = ("matplotlib", "matplotlib", "mpl-data/sample_data")
PHOTOS: dict[str, tuple[tuple[str, str, str], str]] = {
    "astronaut": (SKIMAGE, "astronaut.png"),
    "brick": (SKIMAGE, "brick.png"),
    "camera": (SKIMAGE, "camera.png"),
    "chelsea": (SKIMAGE, "chelsea.png"),
    "china": (SKLEARN, "china.jpg"),
    "clock": (SKIMAGE, "clock_motion.png"),
    "coffee": (SKIMAGE, "coffee.png"),
    "coins": (SKIMAGE, "coins.png"),
    "colorwheel": (SKIMAGE, "color.png"),
    "flower": (SKLEARN, "flower.jpg"),
    "grace_hopper": (MATPLOTLIB, "grace_hopper.jpg"),
    "grass": (SKIMAGE, "grass.png"),
    "gravel": (SKIMAGE, "gravel.png"),
    "hubble_deep_field": (SKIMAGE, "hubble_deep_field.jpg"),
    "ihc": (SKIMAGE, "ihc.png"),
    "moon": (SKIMAGE, "moon.png"),
    "motorcycle_left": (SKIMAGE, "motorcycle_left.png"),
    "motorcycle_right": (SKIMAGE, "motorcycle_right.png"),
    "page": (SKIMAGE, "page.png"),
    "retina": (SKIMAGE, "retina.jpg"),
    "rocket": (SKIMAGE, "rocket.jpg"),
    "text": (SKIMAGE, "text.png"),
}
"""Name of a photograph: where it lies (distribution, package, folder) and its file."""
NATURAL = (
    "astronaut",
    "chelsea",
    "china",
    "coffee",
    "flower",
    "grace_hopper",
    "ihc",
    "motorcycle_left",
    "motorcycle_right",
    "rocket",
    "grass",
    "gravel",
    "brick",
    "camera",
)
"""The photographs with detail everywhere: a crop of any of them weighs what a photograph weighs."""

NOISE_SIDE = 1280
NOISE_LEVELS = (3.0, 5.0, 8.0, 12.0)


def make_rng(seed: int, stream: int, number: int, index: int) -> np.random.Generator:
    """Make the random numbers of one picture, which depend on these four numbers only."""
    seeds = np.random.SeedSequence([seed, stream, number, index])
    return np.random.Generator(np.random.Philox(seeds))


def make_photo(
    seed: int, index: int, size: tuple[int, int] = (500, 375), quality: int = 90
) -> bytes:
    """Make a JPEG of a random part of a photograph, for tests and benchmarks."""
    rng = make_rng(seed, 9, 0, index)
    photo = load_photos()[NATURAL[rng.integers(len(NATURAL))]]
    image = develop(cut(photo, size, rng), rng)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@functools.cache
def load_photos() -> dict[str, Image.Image]:
    """Read all photographs as RGB pictures, once a process.

    Raises UserError if a package or one of its photographs is missing.
    """
    photos = {}
    for name, (source, file) in PHOTOS.items():
        path = _photo_folder(*source) / file
        if not path.is_file():
            raise UserError(
                f"sample photograph {name!r} not found. Looked for: {path}. {source[0]} "
                f"{importlib.metadata.version(source[0])} should ship it. "
                f"Reinstall the package: pip install --force-reinstall '{source[0]}'"
            )
        photos[name] = decode_picture(path.read_bytes())
    return photos


def _photo_folder(distribution: str, package: str, folder: str) -> Path:
    """Find a package's folder of photographs without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"sample-data needs the photographs inside {distribution}. Found: not installed. "
            "Install what it needs: pip install 'fastdeit[sample-data]'"
        )
    return Path(spec.submodule_search_locations[0]) / folder


def photo_packages() -> dict[str, str]:
    """Name the versions that decide the bytes of a picture."""
    names = {source[0] for source, _ in PHOTOS.values()} | {"numpy", "pillow"}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def cut(
    photo: Image.Image,
    size: tuple[int, int],
    rng: np.random.Generator,
    area: tuple[float, float] = (0.15, 1.0),
) -> Image.Image:
    """Cut a random part out of `photo`, mirrored half of the time, at `size`.

    That is (width, height) in pixels; `area` is the smallest and largest share of the photograph's
    area.
    """
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    aspect = size[0] / size[1] * stretch
    pixels = photo.width * photo.height * rng.uniform(*area)
    width, height = (pixels * aspect) ** 0.5, (pixels / aspect) ** 0.5
    # A wanted part that sticks out is shrunk as a whole, which keeps its aspect.
    shrink = min(1.0, photo.width / width, photo.height / height)
    width, height = width * shrink, height * shrink
    left = rng.random() * max(0.0, photo.width - width)
    top = rng.random() * max(0.0, photo.height - height)
    box = (left, top, min(left + width, photo.width), min(top + height, photo.height))
    part = photo.resize(size, Image.Resampling.BICUBIC, box)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part


def develop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change light, colour and sharpness at random, and add the noise of a sensor."""
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.6, 1.4))
    image = image.point(_tone_curves(rng))
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.4, 1.5)))
    noise = _noise_tiles()[rng.integers(len(NOISE_LEVELS))]
    left = int(rng.integers(max(1, noise.width - image.width)))
    top = int(rng.integers(max(1, noise.height - image.height)))
    part = noise.crop((left, top, left + image.width, top + image.height))
    return ImageChops.add(image, part, scale=1, offset=-128)


def _tone_curves(rng: np.random.Generator) -> list[int]:
    """Make the 3 x 256 table of one exposure: brightness, contrast, gamma, colour temperature."""
    level = np.arange(256) / 255
    contrast, brightness = rng.uniform(0.7, 1.3), rng.uniform(-0.12, 0.12)
    gamma = float(np.exp(rng.uniform(-0.3, 0.3)))
    warmth, tint = rng.uniform(-0.15, 0.15), rng.uniform(-0.06, 0.06)
    curve = np.clip(contrast * (level - 0.5) + 0.5 + brightness, 0, 1) ** gamma
    gains = (1 + warmth, 1 + tint, 1 - warmth)
    table = np.concatenate([np.clip(curve * gain * 255 + 0.5, 0, 255) for gain in gains])
    return [int(value) for value in table]


@functools.cache
def _noise_tiles() -> list[Image.Image]:
    """Make one large tile of noise per strength, centred on 128, once a process."""
    # A random part of a tile takes 0.2 ms; fresh noise of 500x375 would take as long as the JPEG
    # encoder. The channels share most of the noise because chroma noise is subsampled away.
    rng = np.random.Generator(np.random.Philox(0))
    luma = rng.standard_normal((NOISE_SIDE, NOISE_SIDE, 1), dtype=np.float32)
    chroma = rng.standard_normal((NOISE_SIDE, NOISE_SIDE, 3), dtype=np.float32)
    noise = luma + 0.4 * chroma
    return [
        Image.fromarray(np.clip(128.5 + level * noise, 0, 255).astype(np.uint8))
        for level in NOISE_LEVELS
    ]
