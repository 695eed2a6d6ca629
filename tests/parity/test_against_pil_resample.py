"""Our resampling kernel against PIL's crop followed by resize: every byte."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fastdeit.pipelines.engines.pil_engine import resample_with_pil
from fastdeit.pipelines.engines.resample import resample_cut, resample_cuts
from fastdeit.pipelines.plan.crops import BICUBIC, BILINEAR, CUT

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 120, 170


def smooth() -> NDArray[np.uint8]:
    """Something like a photograph: noise at several scales."""
    image = np.zeros((HEIGHT, WIDTH, 3))
    for cells in (4, 15, 60):
        cell = Image.fromarray(RANDOM.integers(0, 256, (cells, cells, 3)).astype(np.uint8))
        image += np.asarray(cell.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return (image / 3).astype(np.uint8)


IMAGES = {
    "noise": RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
    "black and white": (RANDOM.integers(0, 2, (HEIGHT, WIDTH, 3)) * 255).astype(np.uint8),
    "constant": np.full((HEIGHT, WIDTH, 3), 201, dtype=np.uint8),
    "smooth": smooth(),
}


def random_cut(size: int) -> NDArray[np.int32]:
    """A rectangle of any size resampled to any size, looked at through any window.

    PIL goes the other way round where a rectangle is over 100 times higher than wide; no crop of
    ours is.
    """
    height, width = int(RANDOM.integers(1, HEIGHT + 1)), int(RANDOM.integers(2, WIDTH + 1))
    top, left = RANDOM.integers(0, HEIGHT - height + 1), RANDOM.integers(0, WIDTH - width + 1)
    full_height, full_width = RANDOM.integers(size, 4 * size, 2)
    window_top = RANDOM.integers(0, full_height - size + 1)
    window_left = RANDOM.integers(0, full_width - size + 1)
    cut = (top, left, height, width, full_height, full_width, window_top, window_left)
    assert len(cut) == len(CUT)
    return np.array(cut, dtype=np.int32)


@pytest.mark.pillow_12
@pytest.mark.parametrize("radius", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [1, 7, 10, 11, 32, 65])
def test_every_byte_is_equal(name: str, size: int, radius: int) -> None:
    """Random rectangles, up- and downscaled, with odd and even sizes, are equal to PIL's."""
    image = IMAGES[name]
    for _ in range(60):
        cut = random_cut(size)
        out = np.zeros((size, size, 3), dtype=np.uint8)
        resample_cut(image, radius, cut, out)
        expected = resample_with_pil(Image.fromarray(image), cut, size, radius)
        difference = np.abs(out.astype(int) - expected)
        assert difference.max() == 0, (cut, difference.max(), difference.mean())


def test_nothing_beyond_the_image_is_touched() -> None:
    """With forbidden memory right behind the image, and before it, every cut still works."""
    script = """
import ctypes, mmap
import numpy as np
from fastdeit.pipelines.engines.resample import resample_cut
from fastdeit.pipelines.plan.crops import BICUBIC
PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 6 * PAGE)
begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
protect = ctypes.CDLL(None).mprotect
for page in (0, 5):
    assert protect(ctypes.c_void_p(begin + page * PAGE), PAGE, 0) == 0
inside = np.frombuffer(memory, dtype=np.uint8)[PAGE : 5 * PAGE]
for height, width in ((1, 1), (3, 1), (1, 7), (9, 5), (37, 31)):
    size = height * width * 3
    for image in (inside[:size], inside[len(inside) - size :]):
        out = np.zeros((12, 12, 3), dtype=np.uint8)
        cut = np.array([0, 0, height, width, 12, 12, 0, 0], dtype=np.int32)
        resample_cut(image.reshape(height, width, 3), BICUBIC, cut, out)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_many_cuts_at_once_are_the_same() -> None:
    """The parallel form over several images gives what the single one gives."""
    images = [IMAGES["noise"], np.ascontiguousarray(IMAGES["smooth"][:50, :61])]
    cuts = np.stack([random_cut(16) for _ in range(20)])
    cuts[:, :4] = (3, 5, 40, 50)
    numbers = np.arange(20) % 2
    out = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    resample_cuts(
        np.array([image.ctypes.data for image in images]),
        np.array([image.shape[0] for image in images]),
        np.array([image.shape[1] for image in images]),
        numbers,
        BICUBIC,
        cuts,
        out,
    )
    for number, cut, found in zip(numbers, cuts, out, strict=True):
        expected = np.zeros((16, 16, 3), dtype=np.uint8)
        resample_cut(images[number], BICUBIC, cut, expected)
        assert np.array_equal(found, expected)
