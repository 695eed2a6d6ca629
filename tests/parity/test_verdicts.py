"""What is shown is what PIL shows, through every engine, of files that decoders read otherwise."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import beton_of
from engines import ENGINES, drawn, make_plan
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import open_pipeline

SKIP = PipelineOptions(threads=2, bad_images="skip")


@pytest.fixture(scope="module")
def val(containers: dict[str, Path]) -> DatasetIndex:
    """The 40 validation images."""
    return open_dataset(containers["val"])


def png_without_end(pixels: Any) -> bytes:
    """A PNG with all of its pixels, whose stream does not end behind them."""
    height, width = pixels.shape[:2]
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(b"\0" + row.tobytes()) for row in pixels)
    packed += packer.flush(zlib.Z_SYNC_FLUSH)
    made = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


@pytest.mark.dali
def test_an_image_that_only_dali_refuses(
    val: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decoded by PIL, and DALI is spared it from then on; the others stay DALI's."""
    from fastdeit.pipelines.engines.dali_engine import DaliPipeline

    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(val.read(number))
    (folder / "3.jpg").write_bytes(png_without_end(np.asarray(decode_with_pil(val, 7))))
    index = open_dataset(tmp_path)
    plan = make_plan(index, is_training=False, batch_size=2)
    with open_pipeline(index, plan, "pil", PipelineOptions(threads=1)) as batches:
        expected = list(batches)
    opened: Any = DaliPipeline(index, plan, PipelineOptions(threads=2))
    with opened as batches:
        for _ in range(2):
            found = list(batches)
            assert batches._only_pil == {3}
            for left, right in zip(found, expected, strict=True):
                assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)
            monkeypatch.setattr(batches, "_without_dali", None)  # DALI does not fail again


def encoded(image: Image.Image, kind: str, **options: Any) -> tuple[bytes, int, int]:
    """A file of an image, and its size."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue(), *image.size


@pytest.fixture(scope="module")
def foreign(val: DatasetIndex, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """Images that decoders read in different ways; those at the end PIL does not show."""
    photo = decode_with_pil(val, 5)
    turned, (width, height) = photo.transpose(Image.Transpose.ROTATE_180), photo.size
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    plain, cut = encoded(photo, "JPEG"), 200 + len(encoded(photo, "JPEG")[0]) // 2
    data = plain[0]
    huge = bytearray(data)
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    shown = [
        plain,
        encoded(photo, "PNG", save_all=True, append_images=[turned], default_image=False),
        encoded(Image.fromarray(grey), "PNG"),
        encoded(photo, "PNG", transparency=(0, 0, 0)),
        encoded(photo.convert("RGBA"), "PNG"),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo.convert("L"), "JPEG"),
        encoded(photo, "MPO", save_all=True, append_images=[turned]),
        encoded(photo, "WEBP", lossless=True),
        encoded(photo, "TIFF"),
        # A stretch of the scan that is not its own: libjpeg remarks on it, and goes on.
        (data[:cut] + bytes(40) + data[cut + 40 :], width, height),
        (data.replace(b"\xff\xdb", bytes(9) + b"\xff\xdb", 1), width, height),
    ]
    refused = [
        (bytes(huge), 20000, 20000),
        (data, 2 * width, 2 * height),
        (data, width, height - 1),
        (plain[0][:cut], width, height),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", 9, 9),
    ]
    folder = tmp_path_factory.mktemp("foreign")
    numbers = set(range(len(shown), len(shown) + len(refused)))
    return beton_of(shown + refused, folder), numbers


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_shows_what_pil_shows(
    engine: Any, foreign: tuple[Path, set[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """The same images with the same pixels, and the same ones refused, epoch after epoch."""
    path, refused = foreign
    index = open_dataset(path)
    plan = make_plan(index, repeats=2, batch_size=6)
    with open_pipeline(index, plan, engine, SKIP) as batches:
        for _ in range(3):
            for batch, step in zip(list(batches), plan.steps(batches._epoch - 1), strict=True):
                samples = [int(key) for key in batch.sample_keys]  # the keys are the numbers here
                assert refused.isdisjoint(samples)
                assert torch.equal(batch.images_nhwc_u8, drawn(index, plan, step, samples))
        assert set(batches.replacements.by_sample) == refused


@pytest.mark.dali
def test_a_failure_of_dali_itself(val: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that is not about an image is raised."""
    from fastdeit.pipelines.engines.dali_engine import DaliPipeline

    broken: Any = DaliPipeline(val, make_plan(val, batch_size=4), SKIP)
    with broken as batches:

        def fail() -> Any:
            raise RuntimeError("planted")

        monkeypatch.setattr(batches._pipe, "run", fail)
        with pytest.raises(RuntimeError, match="planted"):
            list(batches)


@pytest.fixture
def own(containers: dict[str, Path], tmp_path: Path) -> DatasetIndex:
    """The validation images in a file that a test may spoil."""
    return open_dataset(shutil.copy(containers["val"], tmp_path / "own.beton"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_beton_that_is_cut_while_it_is_read(engine: Any, own: DatasetIndex) -> None:
    """One error names the file; the names in it can still be told."""
    index, path = own, own.path
    name = index.describe(7)
    plan = make_plan(index, batch_size=4, repeats=1)
    with open_pipeline(index, plan, engine, PipelineOptions(threads=2)) as batches:
        next(iter(batches))
        os.truncate(path, int(index.offsets.min()) + 1)
        message = rf"must stay as it is while it is read. Found: \d+ of \d+ bytes at {path}"
        with pytest.raises(UserError, match=message) as raised:
            list(batches)
        assert "\n" not in str(raised.value)
        assert index.describe(7) == name
        assert index.columns()["checksums"][7]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_beton_that_is_replaced_while_it_is_read(engine: Any, own: DatasetIndex) -> None:
    """Nothing of the new file is shown with the old one's labels: the old one is, or an error."""
    index, path = own, own.path
    plan = make_plan(index, batch_size=4, repeats=1)
    with open_pipeline(index, plan, engine, PipelineOptions(threads=2)) as batches:
        expected = list(batches)
        batches.load_state_dict({"epoch": 0, "step": 0})
        shown = iter(batches)
        found = [next(shown)]
        other = bytearray(path.read_bytes())
        first = int(index.offsets.min())
        other[first:] = bytes(len(other) - first)
        path.with_name("new.beton").write_bytes(other)
        path.with_name("new.beton").replace(path)
        try:
            found += shown
        except UserError as error:
            message = f"must stay as it is while it is read. Found: another file at {path}"
            assert message in str(error)
            assert engine != "ffcv"
        for left, right in zip(found, expected, strict=False):
            assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_beton_that_is_removed(engine: Any, own: DatasetIndex) -> None:
    """The error names the file, as the system does."""
    index, path = own, own.path
    plan = make_plan(index, batch_size=4, repeats=1)
    with open_pipeline(index, plan, engine, PipelineOptions(threads=2)) as batches:
        next(iter(batches))
        path.unlink()
        if engine == "ffcv":  # it is mapped
            assert len(list(batches)) > 1
            return
        with pytest.raises(FileNotFoundError) as raised:
            list(batches)
        assert str(path) in str(raised.value)
