"""Pictures of our own are distinct, always the same, and as large as photographs."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from fastdeit.benchmarks.harness.photographs import QUALITY, SIZES, make_imagefolder, photograph


def test_pictures_are_distinct_and_always_the_same() -> None:
    """By their number; all sizes occur."""
    pictures = [photograph(number) for number in range(8)]
    assert {picture.size for picture in pictures} == set(SIZES)
    assert len({picture.tobytes() for picture in pictures}) == 8
    assert photograph(3).tobytes() == pictures[3].tobytes()


def test_a_jpeg_is_as_large_as_imagenets() -> None:
    """Between 40 and 65 kB on average; ImageNet's at 500 pixels and quality 90 have 51."""
    sizes = []
    for number in range(8):
        file = io.BytesIO()
        photograph(number).save(file, "JPEG", quality=QUALITY)
        sizes.append(len(file.getvalue()))
    assert 40_000 < sum(sizes) / len(sizes) < 65_000


def test_an_imagefolder(tmp_path: Path) -> None:
    """Spread evenly over the classes, each picture once, whatever the number of workers."""
    seen = 0

    def on_image() -> None:
        nonlocal seen
        seen += 1

    make_imagefolder(tmp_path / "a", 10, 4, 2, on_image)
    files = sorted((tmp_path / "a").rglob("*.jpg"))
    assert seen == len(files) == 10
    assert [len(list(folder.iterdir())) for folder in sorted((tmp_path / "a").iterdir())] == [
        3,
        3,
        2,
        2,
    ]
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 10
