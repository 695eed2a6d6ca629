"""One function opens pictures: which, with what verdict, and in what silence."""

from __future__ import annotations

import ast
import io
import struct
import sys
import types
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

import fastdeit
from fastdeit.pipelines.datasets import pictures
from fastdeit.pipelines.datasets.pictures import PictureError, decode_picture, open_picture
from fastdeit.pipelines.engines.plain_files import is_plain_jpeg, is_plain_png


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """A file of an image, of 50 by 40 pixels if none is given."""
    file = io.BytesIO()
    (image or Image.linear_gradient("L").resize((50, 40)).convert("RGB")).save(
        file, kind, **options
    )
    return file.getvalue()


def test_nothing_else_opens_pictures() -> None:
    """Image.open of PIL is called in one place, and where a benchmark times PIL itself."""
    root = Path(fastdeit.__file__).parents[1]
    callers = set()
    for folder in ("fastdeit", "pipelines", "tools", "benchmarks"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open":
                    callers.add(file.relative_to(root).as_posix())
    assert callers == {"pipelines/datasets/pictures.py", "benchmarks/cases/ceiling_rates.py"}


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS under a photograph's name is no picture, and Ghostscript is not asked."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(eps)
    for source in (eps, tmp_path / "photo.jpg"):
        with (
            pytest.raises(PictureError, match=r"^in no format of pictures that is read$"),
            open_picture(source) as image,
        ):
            image.load()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "QOI", "TGA"]
)
def test_formats(kind: str) -> None:
    """What the installed Pillow reads is read as it reads it."""
    if kind not in pictures.formats():
        pytest.skip(f"this Pillow reads no {kind}")
    if kind == "QOI":
        data = (
            b"qoif" + struct.pack(">IIBB", 50, 40, 3, 0) + b"\xfe\1\2\3" * 2000 + bytes(7) + b"\1"
        )
    else:
        data = encoded(kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(decode_picture(data)), expected)


def test_heif_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """pillow-heif is asked for its reader, if it is installed."""
    asked: list[str] = []

    def register() -> None:
        asked.append("heif")
        Image.register_open("HEIF", Image.OPEN["PNG"][0])

    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    pictures.formats.cache_clear()
    try:
        assert "HEIF" in pictures.formats()
        assert asked
    finally:
        Image.OPEN.pop("HEIF")
        Image.ID.remove("HEIF")
        pictures.formats.cache_clear()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "QOI", "TIFF"])
def test_the_verdict_is_pils_own(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is cut does not decode whatever a program has set; one line says so, and no other."""
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encoded(kind, Image.fromarray(noise), **options) if kind != "QOI" else b""
    if kind == "QOI":
        data = b"qoif" + struct.pack(">IIBB", 50, 40, 3, 0) + b"\xfe\1\2\3" * 2000
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError) as error:
        decode_picture(data[: len(data) // 2])
    assert "\n" not in str(error.value)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None
    assert capfd.readouterr() == ("", "")


def test_bombs_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of many pixels costs nothing."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    with pytest.raises(PictureError, match=r"^Image size \(400000000 pixels\) exceeds limit"):
        decode_picture(bytes(data))


def test_warnings_are_not_printed() -> None:
    """Of odd metadata PIL's picture is shown, without a word."""
    image = Image.new("P", (20, 20))
    data = encoded("PNG", image, transparency=bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_picture(data).size == (20, 20)


def test_lack_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is not bad because the machine is short of memory."""

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(MemoryError):
        decode_picture(encoded("PNG"))


# ---- what all decoders read in the same way ------------------------------------------------------
def plain_jpeg(data: bytes, width: int = 50, height: int = 40) -> bool:
    """`is_plain_jpeg` of some bytes."""
    return bool(is_plain_jpeg(np.frombuffer(data, np.uint8), width, height))


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment at its front."""
    return (
        data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]
    )


def test_plain_jpegs() -> None:
    """Photographs of usual make, at their own size; what PIL refuses is none, nor what is cut."""
    data = encoded("JPEG")
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    for usual in (
        data,
        encoded("JPEG", progressive=True),
        encoded("JPEG", Image.new("L", (50, 40))),
        encoded("JPEG", exif=exif, icc_profile=bytes(300), comment=b"words"),
        with_segment(data, 0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x02ab"),
    ):
        assert plain_jpeg(usual)
        assert not plain_jpeg(usual, 40, 50)
        for cut in range(0, usual.index(b"\xff\xda"), 7):
            assert not plain_jpeg(usual[:cut])


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
        (0xEE, b"Adobe\0"),
        (0xDB, b"\0" + bytes(60)),
    ],
)
def test_heads_that_only_pil_refuses(marker: int, content: bytes) -> None:
    """What PIL's own parser cannot read, though libjpeg may take it, is not plain."""
    data = with_segment(encoded("JPEG"), marker, content)
    with pytest.raises(PictureError):
        decode_picture(data)
    assert not plain_jpeg(data)


def test_plain_pngs() -> None:
    """8 bits of grey or RGB with nothing that changes them, whole in every byte."""

    def is_plain(data: bytes) -> bool:
        return is_plain_png(np.frombuffer(data, np.uint8), 50, 40)

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "words")
    rgb = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    data = encoded("PNG", rgb, pnginfo=info, dpi=(72, 72))
    assert is_plain(data)
    assert is_plain(encoded("PNG", rgb.convert("L")))
    assert not is_plain(data[:-12])
    for mode in ("1", "P", "LA", "RGBA", "I;16"):
        assert not is_plain(encoded("PNG", rgb.convert("L").convert(mode)))
    assert not is_plain(encoded("PNG", rgb, transparency=(0, 0, 0)))
    assert not is_plain(encoded("PNG", rgb, save_all=True, append_images=[rgb.rotate(90)]))
    assert not is_plain(encoded("PNG", rgb.resize((40, 50))))
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 1
        assert not is_plain(bytes(spoilt)), at
    kind = b"acTL" + struct.pack(">II", 1, 0)
    chunk = struct.pack(">I", 8) + kind + struct.pack(">I", zlib.crc32(kind))
    assert not is_plain(data[:33] + chunk + data[33:])
