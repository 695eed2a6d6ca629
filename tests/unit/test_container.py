"""Writers put every byte where it belongs, however the system moves it."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.index import JPEG_MODE, checksum, open_dataset
from fastdeit.pipelines.datasets.sidecar import read_sidecar, write_sidecar
from fastdeit.pipelines.datasets.webdataset import tar_header

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
