"""Writers put every byte where it belongs, however the system moves it."""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastdeit.pipelines.datasets.beton import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    IMAGE,
    SAMPLE,
    BetonWriter,
    open_beton,
)
from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.index import (
    JPEG_MODE,
    RAW_MODE,
    DamagedError,
    checksum,
    index_from_columns,
    open_dataset,
)
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.sidecar import read_sidecar, write_sidecar
from fastdeit.pipelines.datasets.webdataset import tar_header
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.verify import verify

REAL_COPY = os.copy_file_range


def short_copy(source: int, target: int, count: int, at: int, to: int) -> int:
    """Copies a thousand bytes at a time, as a system call may."""
    return REAL_COPY(source, target, min(count, 1000), at, to)


def refused(number: int) -> Callable[..., int]:
    """A system call that the file systems do not know."""

    def copy(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return copy


@pytest.mark.parametrize(
    "copy", [REAL_COPY, short_copy, refused(errno.EXDEV), refused(errno.EOPNOTSUPP)]
)
def test_ranges_of_files_are_copied_whole(
    copy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of other files arrive, by the kernel in one piece or in many, or through us."""
    monkeypatch.setattr(os, "copy_file_range", copy)
    rng = np.random.default_rng(0)
    data = rng.bytes(50_000)
    for name in "ab":
        (tmp_path / name).write_bytes(data)
    pieces: list[bytes | FileRange] = [
        FileRange(str(tmp_path / "a"), 0, 20_001),
        data[7:5000],
        FileRange(str(tmp_path / "b"), 33, 30_000),
        FileRange(str(tmp_path / "b"), 20_000, 30_000),
    ]
    contents = [piece if isinstance(piece, bytes) else piece.read() for piece in pieces]
    writer = BetonWriter(tmp_path, 4)
    for key, piece in enumerate(pieces):
        writer.add(key, piece, key, JPEG_MODE)
    ones = np.ones(4, dtype=np.int32)
    columns = {
        "keys": np.arange(4, dtype=np.uint64),
        "labels": np.arange(4, dtype=np.int64),
        "modes": np.zeros(4, dtype=np.uint8),
        "widths": ones,
        "heights": ones,
        "checksums": np.array([checksum(content) for content in contents], dtype=np.uint64),
    }
    index = open_dataset(writer.finish({}, columns))
    assert [index.read(sample) for sample in range(4)] == contents


def test_a_file_that_was_cut_is_not_copied(tmp_path: Path) -> None:
    """A range beyond the end of its file is an error that names the file."""
    (tmp_path / "a").write_bytes(b"12345")
    writer = BetonWriter(tmp_path, 1)
    with pytest.raises(OSError, match="it was cut while it was read") as error:
        writer.add(0, FileRange(str(tmp_path / "a"), 0, 6), 0, JPEG_MODE)
    assert error.value.filename == str(tmp_path / "a")


def test_tarfile_reads_our_headers() -> None:
    """Python's tarfile finds name, size and an ordinary file in our headers, checksum included."""
    for name, size in (("a.jpg", 0), ("0123456789abcdef.cls", 3), ("x" * 100, 8**11 - 1)):
        header = tar_header(name, size)
        assert len(header) == 512
        found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        assert (found.name, found.size, found.mode, found.mtime) == (name, size, 0o644, 0)
        assert found.isreg()


def test_the_index_is_safetensors(tmp_path: Path) -> None:
    """The safetensors library reads our index, and the same content gives the same bytes."""
    numpy = pytest.importorskip("safetensors.numpy")
    columns = {
        "keys": np.arange(5, dtype=np.uint64) << np.uint64(60),
        "modes": np.arange(5, dtype=np.uint8),
        "widths": np.arange(5, dtype=np.int32),
        "labels": -np.arange(5, dtype=np.int64),
    }
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            assert write_sidecar(file, {"a": "\u00e9"}, columns) == file.tell()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    meta, found = read_sidecar(tmp_path / "a")
    assert meta == {"a": "\u00e9"}
    theirs = numpy.load_file(tmp_path / "a")
    for name, column in columns.items():
        assert np.array_equal(found[name], column)
        assert np.array_equal(theirs[name], column)
        assert theirs[name].dtype == column.dtype


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    """Four images, of which two lie in the file as pixels."""
    source = tmp_path / "set"
    for number in range(4):
        file = source / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + number, 20), (number * 30, 0, 0)).save(file)
    out = tmp_path / "out.beton"
    assert convert(source, out, mode="proportion", workers=1) == 0
    assert sorted(open_dataset(out).modes.tolist()) == [0, 0, 1, 1]
    return out


def spoil(path: Path, at: int, value: Any) -> None:
    """Write a value over what is there."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(np.asarray(value).tobytes())


METADATA = HEADER.itemsize + 2 * DESCRIPTOR.itemsize
NAMES = IMAGE.names or ()
FIELDS = {name: IMAGE.fields[name] for name in NAMES}  # type: ignore[index]


@pytest.mark.parametrize("field", NAMES)
def test_a_metadata_record_that_is_not_the_index(
    field: str, beton: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FFCV's tables are compared at the opening; `verify` names the sample once."""
    kind, inside = FIELDS[field][:2]
    at = METADATA + 2 * SAMPLE.itemsize + inside
    spoil(beton, at, np.fromfile(beton, kind, 1, offset=at)[0] ^ 1)
    index = open_beton(beton, is_checked=False)
    fault = f"{index.describe(2)}: its metadata record is damaged"
    with pytest.raises(DamagedError, match=re.escape(f"Found: {fault}. Convert the source again")):
        open_dataset(beton)
    capsys.readouterr()
    assert verify(beton, workers=1) == 1
    assert capsys.readouterr().err.count(fault) == 1


@pytest.mark.parametrize(
    ("table", "row", "field", "value", "found"),
    [
        (SAMPLE, 1, "f0.mode", 2, "images that a .beton cannot hold"),
        (SAMPLE, 1, "f0.width", 0, "widths 0 of sample 1"),
        (SAMPLE, 1, "f0.data_ptr", 1 << 63, "tables that contradict each other"),
        (SAMPLE, 1, "f1", -1, "labels from -1 to 1"),
        (SAMPLE, 1, "f1", 1 << 40, f"labels from 0 to {1 << 40}"),
        (ALLOCATION, 1, "sample_id", 7, "4 samples, with numbers from 0 to 7"),
        (ALLOCATION, 1, "ptr", 1, "tables that contradict each other"),
        (ALLOCATION, 1, "size", 1 << 40, "samples that lie outside the file"),
        (ALLOCATION, 1, "size", 0, "sizes 0 of sample 1"),
        (ALLOCATION, 1, "size", (1 << 64) - 1, "sizes -1 of sample 1"),
        (HEADER, 0, "page_size", 12345, "pages of 12345 bytes"),
        (HEADER, 0, "num_samples", 1 << 60, "bytes"),
        (HEADER, 0, "num_samples", 0, "0 samples in its head"),
    ],
)
def test_tables_of_ffcvs_that_cannot_be(
    table: Any, row: int, field: str, value: int, found: str, beton: Path
) -> None:
    """What would lead a reader out of the file, or to a size that is none, is refused."""
    # Without our mark it is a file of FFCV's.
    spoil(beton, HEADER.itemsize + DESCRIPTOR.itemsize + 1 + 16, np.zeros(24, np.uint8))
    assert len(open_dataset(beton)) == 4
    start = {SAMPLE: METADATA, HEADER: 0}.get(table)
    if start is None:
        start = int(np.fromfile(beton, HEADER, 1)[0]["alloc_table_ptr"])
    inside, kind = 0, table
    for name in field.split("."):
        kind, offset = kind.fields[name][:2]
        inside += offset
    spoil(beton, start + row * table.itemsize + inside, np.array(value).astype(kind))
    with pytest.raises(DamagedError, match=re.escape(found)):
        open_dataset(beton)


def test_raw_pixels_are_as_many_as_the_size_says(beton: Path) -> None:
    """In a file of FFCV's the size in pixels of a raw image is checked against its bytes."""
    index = open_dataset(beton)
    raw = int(np.flatnonzero(index.modes == RAW_MODE)[0])
    spoil(beton, HEADER.itemsize + DESCRIPTOR.itemsize + 1 + 16, np.zeros(24, np.uint8))
    at = METADATA + raw * SAMPLE.itemsize + FIELDS["width"][1]
    spoil(beton, at, np.uint16(2 * index.widths[raw]))
    with pytest.raises(DamagedError, match=f"sizes {index.sizes[raw]} of sample {raw}"):
        open_dataset(beton)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"widths": [30, 30, 0, 30]}, "widths 0 of sample 2"),
        ({"labels": [0, 1, 2, 0]}, "labels 2 of sample 2"),
        ({"file_ids": [0, 0, 0, 1]}, "file_ids 1 of sample 3"),
        ({"offsets": [0, -1, 0, 0]}, "offsets -1 of sample 1"),
        ({"modes": [0, 0, 0, 3]}, "modes 3 of sample 3"),
        ({"keys": [0, 1, 2]}, "do not have the same number of samples"),
    ],
)
def test_an_index_that_nothing_can_be_read_with(
    change: dict[str, list[int]], found: str, beton: Path
) -> None:
    """A column that was made to deceive is refused, whatever container it is of."""
    columns = open_dataset(beton).columns()
    for name, values in change.items():
        columns[name] = np.array(values, columns[name].dtype)
    meta = {"class_ids": ["a", "b"], "class_names": ["a", "b"]}
    with pytest.raises(ValueError, match=found):
        index_from_columns(beton, "beton", (beton,), meta, columns)


def test_names_that_end_nowhere(beton: Path) -> None:
    """So is a name that would be read from other memory."""
    columns = open_dataset(beton).columns()
    names = columns["names"]
    columns["names"] = Names(names.text, names.ends + 1)
    with pytest.raises(ValueError, match="its names do not end where they should"):
        index_from_columns(beton, "beton", (beton,), {"class_ids": ["a", "b"]}, columns)
