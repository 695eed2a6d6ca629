"""What happens to one image: PIL is the judge."""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin

from fastdeit import UserError
from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.index import JPEG_MODE, PNG_MODE, RAW_MODE, checksum
from fastdeit.pipelines.datasets.jpeg_head import read_jpeg_head
from fastdeit.tools.data.convert.prepare_image import ImageOptions, PreparedImage, prepare_image


@dataclass(frozen=True)
class Stored:
    """A request for what is in memory."""

    content: bytes | NDArray[np.uint8]

    def read(self) -> bytes | NDArray[np.uint8]:
        """The content."""
        return self.content


def photo(width: int = 300, height: int = 200, mode: str = "RGB") -> Image.Image:
    """A smooth image with some texture."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + c)) * 60 + np.cos(y / (7 + c)) * 60 + 128 for c in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """A file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def prepare(content: bytes | NDArray[np.uint8], key: int = 1, **options: Any) -> PreparedImage:
    """Prepare what is in memory."""
    settings = ImageOptions(**{"lossless": "raw", **options})
    return prepare_image(settings, (key, Stored(content)))


def pixels(image: PreparedImage) -> NDArray[Any]:
    """What a reader sees: (H, W, 3)."""
    assert not image.error, image.error
    data = bytes(image.data)  # type: ignore[arg-type]
    assert image.checksum == checksum(data)
    if image.mode == RAW_MODE:
        return np.frombuffer(data, np.uint8).reshape(image.height, image.width, 3).astype(int)
    opened = Image.open(io.BytesIO(data))
    assert opened.size == (image.width, image.height)
    assert opened.format == ("PNG" if image.mode == PNG_MODE else "JPEG")
    return np.asarray(opened.convert("RGB")).astype(int)


def close(left: NDArray[Any], right: Any, mean: float = 2.0) -> bool:
    """Whether two images are alike."""
    expected = np.asarray(right).astype(int)
    assert left.shape == expected.shape
    return float(np.abs(left - expected).mean()) < mean


def test_heads_are_what_pil_reads(sample_source: Path) -> None:
    """Size and EXIF orientation of every JPEG of the sample data, from its whole file or start."""
    count = 0
    for file in sorted(sample_source.rglob("*.JPEG")):
        data = file.read_bytes()
        with Image.open(file) as image:
            if image.format != "JPEG":
                assert read_jpeg_head(data) is None
                continue
            head, start = read_jpeg_head(data), read_jpeg_head(data[:4096], is_whole=False)
            assert head is not None
            assert start is not None
            assert (head.width, head.height) == image.size == (start.width, start.height)
            assert head.orientation == image.getexif().get(0x0112, 1)
            assert head.components == len(image.getbands())
            assert head.is_progressive == bool(image.info.get("progressive"))
            assert head.fault == "" == start.fault
            count += 1
    assert count > 330


@pytest.mark.parametrize("check", ["structure", "decode"])
def test_cut_jpegs_pass_where_pil_decodes_them(check: str, sample_source: Path) -> None:
    """Cut anywhere, a JPEG is an error where PIL fails, else it passes and is listed."""
    rng = random.Random(0)
    files = sorted(sample_source.rglob("*.JPEG"))
    for file in rng.sample(files, 40):
        data = file.read_bytes()
        if read_jpeg_head(data) is None:
            continue
        for cut in [1, 2, 20, len(data) - 1, *(rng.randrange(len(data)) for _ in range(6))]:
            image = prepare(data[:cut], check=check)
            try:
                Image.open(io.BytesIO(data[:cut])).load()
            except OSError:
                assert image.error
            else:
                assert "damaged JPEG" in image.note
                assert image.data == data[:cut]


def test_a_fault_before_the_frame_header_passes() -> None:
    """PIL and libjpeg skip bytes that belong to nothing; the file is kept and listed."""
    data = encoded(photo())
    tables = data.index(b"\xff\xdb")
    data = data[:tables] + bytes(9) + data[tables:]
    assert read_jpeg_head(data) is None
    found = prepare(data)
    assert found.data == data
    assert (found.width, found.height) == (300, 200)
    assert found.note == "damaged JPEG (a fault before its frame header) that PIL decodes, kept"


def test_damaged_exif_is_no_fault_of_the_picture() -> None:
    """What cannot be read of a camera is left, the picture is kept."""
    exif = b"Exif\0\0second\0 and no more"
    data = encoded(photo(), exif=exif, dpi=(72, 72))
    tables = data.index(b"\xff\xdb")
    data = data[:tables] + bytes(9) + data[tables:]  # so that PIL is asked for its head
    with pytest.raises(SyntaxError):
        Image.open(io.BytesIO(data)).getexif()
    assert prepare(data).data == data


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    """White of 16 bits is white of 8, half is half; --16-bit clip gives PIL's way."""
    wide = np.full((8, 8), 65535, np.uint16)
    wide[:, 4:] = 32896
    data = encoded(Image.fromarray(wide), kind)
    found = prepare(data, mode="raw")
    assert pixels(found)[0, [0, 7]].tolist() == [[255] * 3, [128] * 3]
    assert "0 to 65535 scaled to 0 to 255" in found.note
    clipped = pixels(prepare(data, mode="raw", sixteen_bit="clip"))
    assert np.array_equal(clipped, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_twelve_bits_are_scaled() -> None:
    """White of the 12 bits that a TIFF says it has is white."""
    wide = np.tile(np.array([0, 2048, 4095, 1], dtype=np.uint16), (2, 1))
    packed = bytearray()
    for one, two in wide.reshape(-1, 2).tolist():  # two values in three bytes
        packed += bytes([one >> 4, (one & 15) << 4 | two >> 8, two & 255])
    tags = [(256, 4), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2)]
    tags.append((279, len(packed)))
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    found = prepare(data, mode="raw")
    assert pixels(found)[0, :, 0].tolist() == [0, 128, 255, 0]
    assert "0 to 4095 scaled to 0 to 255" in found.note


@pytest.mark.parametrize("mode", ["I", "F"])
def test_what_has_no_scale_is_bad(mode: str) -> None:
    """Floats and 32 bits are named with their mode."""
    found = prepare(encoded(photo(mode="L").convert(mode), "TIFF"))
    assert found.error == f"TIFF in mode {mode}, of no known scale"


def test_a_needle_is_bad() -> None:
    """What no JPEG can hold is a bad image, not the end; raw it can be stored."""
    data = encoded(Image.new("RGB", (65510, 1)), "PNG")
    assert prepare(data).error == "65510x1 pixels, over 65500 a side"
    assert prepare(data, mode="raw").width == 65510


def test_messages_are_the_same_in_each_run() -> None:
    """No address of an object of Python's is in them."""
    assert prepare(b"garbage" * 50).error == "in no format of pictures that is read"


def test_a_damaged_table_is_found_by_decoding() -> None:
    """A structure that is whole with a Huffman table that is not passes, unless it is decoded."""
    data = bytearray(encoded(photo()))
    at = data.index(b"\xff\xc4") + 5
    data[at : at + 16] = b"\xff" * 16
    assert prepare(bytes(data), check="structure").data == data
    assert prepare(bytes(data), check="decode").error


@pytest.mark.parametrize(("options", "size"), [
    ({"max_side": 120}, (120, 80)),
    ({"short_side": 50}, (75, 50)),
    ({"max_side": 301}, (300, 200)),
    ({"short_side": 200}, (300, 200)),
])  # fmt: skip
def test_scaling_down(options: dict[str, int], size: tuple[int, int]) -> None:
    """Images get the size asked for, like PIL's antialiased bicubic, and are never enlarged."""
    image = photo()
    data = encoded(image, quality=95)
    found = prepare(data, **options)
    assert (found.width, found.height) == size
    assert close(pixels(found), image.resize(size, Image.Resampling.BICUBIC), 5)
    assert (found.data == data) == (size == image.size)


def test_scaling_keeps_chroma_sampling() -> None:
    """A scaled JPEG has the chroma sampling of its source; what was none has full chroma."""
    for sampling in (0, 1, 2):
        data = encoded(photo(), subsampling=sampling)
        small = prepare(data, max_side=100)
        opened = Image.open(io.BytesIO(bytes(small.data)))  # type: ignore[arg-type]
        assert JpegImagePlugin.get_sampling(opened) == sampling


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_is_applied_if_asked(orientation: int, kind: str) -> None:
    """Turned as PIL turns it with --exif apply, untouched bytes without."""
    image = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    found = prepare(data, exif="apply", max_side=100)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    small = turned.resize((found.width, found.height), Image.Resampling.BICUBIC)
    assert max(small.size) == 100
    assert (found.width > found.height) == (orientation < 5)
    assert close(pixels(found), small, 4)
    ignored = prepare(data)
    assert close(pixels(ignored), image, 6)
    if kind == "JPEG":
        assert ignored.data == data
        assert ("EXIF orientation" in ignored.note) == (orientation != 1)
    assert ("applied" in found.note) == (orientation != 1)


def test_which_are_encoded_again() -> None:
    """Needed keeps progressive and grey JPEGs, nonbaseline does not, all keeps none."""
    plain, progressive = encoded(photo()), encoded(photo(), progressive=True)
    grey = encoded(photo(mode="L"))
    kept = {
        policy: [prepare(data, reencode=policy).data == data for data in (plain, progressive, grey)]
        for policy in ("needed", "nonbaseline", "all")
    }
    assert kept == {
        "needed": [True, True, True],
        "nonbaseline": [True, False, False],
        "all": [False, False, False],
    }
    assert "progressive" in prepare(progressive, reencode="nonbaseline").note
    assert prepare(plain, reencode="all").note == ""


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_other_formats_become_jpegs(kind: str) -> None:
    """Whatever PIL reads becomes an RGB JPEG, and is listed."""
    image = photo()
    found = prepare(encoded(image, kind))
    assert found.mode == JPEG_MODE
    assert kind in found.note
    assert close(pixels(found), Image.open(io.BytesIO(encoded(image, kind))).convert("RGB"), 4)


def test_cmyk_and_transparency_are_read_as_pil_reads_them() -> None:
    """CMYK, palette and alpha become what convert('RGB') gives, as torchvision's loader does."""
    for data in (
        encoded(photo(mode="CMYK")),
        encoded(photo(mode="P"), "PNG"),
        encoded(photo(mode="RGBA"), "PNG"),
        encoded(Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100)), "PNG"),
    ):
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        found = prepare(data, mode="raw", sixteen_bit="clip")
        assert np.array_equal(pixels(found), np.asarray(expected))
        assert close(pixels(prepare(data, sixteen_bit="clip")), expected, 4)


def test_raw_is_every_pixel() -> None:
    """Mode raw stores the pixels that PIL decodes; bare pixels stay what they are by default."""
    data = encoded(photo())
    assert np.array_equal(
        pixels(prepare(data, mode="raw")), np.asarray(Image.open(io.BytesIO(data)))
    )
    bare = np.asarray(photo(32, 32))
    for lossless, mode in (("raw", RAW_MODE), ("png", PNG_MODE)):
        found = prepare(bare, lossless=lossless)
        assert found.mode == mode
        assert found.note == ""
        assert np.array_equal(pixels(found), bare)
    assert prepare(bare, mode="jpg").mode == JPEG_MODE


def test_proportion_is_decided_by_the_key() -> None:
    """About the share that is asked for stays JPEG, the same images in every run."""
    data = encoded(photo(20, 20))
    modes = [prepare(data, key, mode="proportion", jpg_fraction=0.25).mode for key in range(2000)]
    assert modes == [
        prepare(data, key, mode="proportion", jpg_fraction=0.25).mode for key in range(2000)
    ]
    assert abs(modes.count(JPEG_MODE) / 2000 - 0.25) < 0.04
    assert {prepare(data, k, mode="proportion", jpg_fraction=1.0).mode for k in range(50)} == {0}
    assert {prepare(data, k, mode="proportion", jpg_fraction=0.0).mode for k in range(50)} == {1}


def test_bombs_and_programs_are_refused() -> None:
    """A head that promises billions of pixels, and formats that start programs, are bad images."""
    bomb = bytearray(encoded(photo()))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\xff\xfe\xff\xfe"
    assert "decompression bomb" in prepare(bytes(bomb)).error
    png = bytearray(encoded(photo(), "PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    assert "bomb" in prepare(bytes(png)).error
    assert prepare(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").error
    assert prepare(b"").error == "an empty file"
    assert prepare(b"no image at all").error


def test_random_bytes_never_raise() -> None:
    """Whatever is in a file, the answer is an image or one line that says why not."""
    rng = random.Random(1)
    whole = [encoded(photo(40, 30), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
    for number in range(600):
        data = bytearray(whole[number % len(whole)])
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        image = prepare(bytes(data), mode="raw")
        assert bool(image.error) != bool(image.data)
        assert "\n" not in image.error


def test_what_passes_is_not_sent(tmp_path: Path) -> None:
    """For a file that passes only its place comes back, with the checksum of its bytes."""
    file = tmp_path / "a.jpg"
    file.write_bytes(b"front" + encoded(photo()))
    where = FileRange(str(file), 5, file.stat().st_size - 5)
    image = prepare_image(ImageOptions(lossless="raw"), (1, where))
    assert image.data == where
    assert image.checksum == checksum(where.read())
    with pytest.raises(FileNotFoundError):
        gone = FileRange(str(tmp_path / "gone" / "a.jpg"), 0, 5)  # with its folder: not one image
        prepare_image(ImageOptions(lossless="raw"), (1, gone))
    lost = prepare_image(ImageOptions(lossless="raw"), (1, FileRange(f"{tmp_path}/no", 0, 5)))
    assert lost.error == "No such file or directory"
    cut = FileRange(str(file), 5, file.stat().st_size)
    assert "was cut since" in prepare_image(ImageOptions(lossless="raw"), (1, cut)).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, r"quality must be from 1 to 100\. Found: 0"),
        ({"max_side": 0}, r"max-side must be from 1 to 65535 pixels\. Found: 0"),
        ({"max_side": 5, "short_side": 5}, r"only one of max-side and short-side"),
        ({"jpg_fraction": 1.5, "mode": "proportion"}, r"jpg-fraction must be from 0 to 1\. Found"),
        (
            {"jpg_fraction": 0.3},
            r"jpg-fraction is for mode proportion\. Found: 0\.3 with mode",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """Values out of range and options that contradict each other are one clear error."""
    with pytest.raises(UserError, match=message):
        ImageOptions(lossless="raw", **options)
