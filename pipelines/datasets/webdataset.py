"""WebDataset shards: plain tar files, each with DALI's .idx (v1.2) and all with one sidecar.

A sample is KEY.jpg (or KEY.png) and KEY.cls, where KEY is its stable key in hexadecimal. The
sidecar says where each image lies, so that opening 1.28 million samples reads no tar header.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit.files import replace_file, replacing
from fastdeit.pipelines.datasets.container import ContainerWriter
from fastdeit.pipelines.datasets.index import (
    PNG_MODE,
    DamagedError,
    DatasetIndex,
    index_from_columns,
)
from fastdeit.pipelines.datasets.sidecar import read_sidecar, write_sidecar

SIDECAR = "index.safetensors"
IDX_VERSION = "v1.2"
BLOCK = 512  # of a tar file
RECORD = 20 * BLOCK  # a tar file is padded to a multiple of it


class WebDatasetWriter(ContainerWriter):
    """Writes shards into a folder."""

    def __init__(self, folder: Path, max_samples: int, shard_bytes: int) -> None:
        """See `ContainerWriter`; `shard_bytes` is about how large a shard becomes."""
        super().__init__(folder, max_samples)
        self.shards = folder / "shards"
        self.shards.mkdir(exist_ok=True)
        self.shard_bytes = shard_bytes
        self._shard, self._end = 0, 0

    def path_of(self, file_id: int) -> Path:
        """See `ContainerWriter`."""
        return self.shards / _shard_name(file_id)

    def place(self, size: int, label: int) -> tuple[int, int, int]:
        """See `ContainerWriter`."""
        if self._end >= self.shard_bytes:
            self._shard, self._end = self._shard + 1, 0
        offset = self._end + BLOCK
        label_offset = offset + padded(size) + BLOCK
        self._end = label_offset + padded(len(str(label)))
        return self._shard, offset, self._end

    def around(self, key: int, size: int, label: int, mode: int) -> tuple[bytes, bytes]:
        """See `ContainerWriter`."""
        return member_blocks(key, size, label, mode)

    def sync(self) -> None:
        """See `ContainerWriter`; a full shard gets its end and its size."""
        if self._handle >= 0 and self._open_id != self._shard:
            self._end_shard(self._open_id)
        super().sync()

    def _end_shard(self, shard: int) -> None:
        """Pad the open shard as tar does."""
        mine = np.flatnonzero(self.file_ids[: self.count] == shard)
        end = _shard_bytes_of(int(self.offsets[mine[-1]]), int(self.sizes[mine[-1]]))
        os.truncate(self._handle, end)

    def finish(self, meta: dict[str, Any], columns: dict[str, Any]) -> Path:
        """See `ContainerWriter`."""
        columns = {**self.written(), **columns}
        if self._handle >= 0:
            self._end_shard(self._open_id)
        self.close()
        num_shards = int(columns["file_ids"][-1]) + 1
        for shard in range(num_shards):
            text = idx_text(columns, shard).encode()
            replace_file(self.path_of(shard).with_suffix(".idx"), text)
        with replacing(self.shards / SIDECAR) as file:
            write_sidecar(file, meta, columns)
        for path in self.shards.iterdir():  # what a killed finish with more shards left
            if not is_shard_file(path) or path.stem > f"shard-{num_shards - 1:06d}":
                path.unlink()
        return self.shards


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def padded(size: int) -> int:
    """Bytes that a member's content takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def _shard_bytes_of(last_offset: int, last_size: int) -> int:
    """Size of a shard whose last sample's image begins at an offset; a label takes one block."""
    end = last_offset + padded(last_size) + 2 * BLOCK
    return -(-(end + 2 * BLOCK) // RECORD) * RECORD


def member_blocks(key: int, size: int, label: int, mode: int) -> tuple[bytes, bytes]:
    """What stands in a shard before and after the `size` bytes of an image.

    (tar header of the image, its padding and the label's header and content).
    """
    text = str(label).encode()
    stem = f"{key:016x}"
    head = tar_header(f"{stem}.{extension(mode)}", size)
    tail = bytes(-size % BLOCK) + tar_header(f"{stem}.cls", len(text)) + text
    return head, tail + bytes(-len(text) % BLOCK)


def extension(mode: int) -> str:
    """The extension of an image's member."""
    return "png" if mode == PNG_MODE else "jpg"


def tar_header(name: str, size: int) -> bytes:
    """The header of a member that says nothing of this machine or this moment (POSIX ustar).

    The name has at most 100 ASCII characters, the content below 8 GiB.
    """
    front = name.encode("ascii").ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    front += b"%011o\0" % size + b"0" * 11 + b"\0"
    checksum = sum(front) + _TAIL_SUM
    return front + b"%06o\0 " % checksum + _TAIL


_TAIL = (b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2).ljust(356, b"\0")
_TAIL_SUM = sum(_TAIL) + 8 * ord(" ")  # the checksum counts itself as spaces


def idx_text(columns: dict[str, Any], shard: int) -> str:
    """The .idx of a shard: for each sample, extension, offset, size and name of both members."""
    lines = []
    mine = np.flatnonzero(columns["file_ids"] == shard)
    rows = (
        columns[name][mine].tolist() for name in ("keys", "offsets", "sizes", "labels", "modes")
    )
    for key, offset, size, label, mode in zip(*rows, strict=True):
        kind, text = extension(mode), str(label)
        label_offset = offset + padded(size) + BLOCK
        lines.append(
            f"{kind} {offset} {size} {key:016x}.{kind} "
            f"cls {label_offset} {len(text)} {key:016x}.cls"
        )
    return "\n".join([f"{IDX_VERSION} {len(lines)}", *lines]) + "\n"


def is_shard_file(path: Path) -> bool:
    """Whether a file in a folder of shards is one that `WebDatasetWriter` makes."""
    return path.name == SIDECAR or re.fullmatch(r"shard-\d{6}\.(tar|idx)", path.name) is not None


def lost_index(path: Path) -> bool:
    """Whether a folder holds shards of ours without their index: it would tell other keys."""
    first = path / _shard_name(0)
    if not first.is_file() or (path / SIDECAR).is_file():
        return False
    with first.open("rb") as file:
        return re.match(rb"[0-9a-f]{16}\.(jpg|png)\0", file.read(100)) is not None


def open_webdataset(path: Path, is_checked: bool = True) -> DatasetIndex:
    """Open a folder of shards that `fastdeit convert` made.

    `is_checked` tells whether every shard must be there in its full size. Raises DamagedError if
    the sidecar is damaged, or a shard is missing or cut off.
    """
    way_out = "Convert the source again with `fastdeit convert`."
    try:
        meta, columns = read_sidecar(path / SIDECAR)
        num_shards = int(columns["file_ids"].max(initial=0)) + 1
        files = tuple(path / _shard_name(number) for number in range(num_shards))
        index = index_from_columns(path, "webdataset", files, meta, columns)
    except (ValueError, KeyError) as error:
        raise DamagedError(f"{path / SIDECAR} cannot be read. Found: {error}. {way_out}") from error
    if not is_checked:
        return index
    for file, needed in zip(files, shard_sizes(index), strict=True):
        found = file.stat().st_size if file.is_file() else -1
        if found < needed:
            what = "no such file" if found < 0 else f"{found} of at least {needed} bytes"
            raise DamagedError(f"{file} is not a whole shard. Found: {what}. {way_out}")
    return index


def shard_sizes(index: DatasetIndex) -> NDArray[np.int64]:
    """How many bytes each shard of ours has, from where its last sample lies."""
    ends = np.zeros(len(index.files), dtype=np.int64)
    lasts = np.flatnonzero(np.diff(index.file_ids, append=-1))
    for sample in lasts.tolist():
        size = _shard_bytes_of(int(index.offsets[sample]), int(index.sizes[sample]))
        ends[index.file_ids[sample]] = size
    return ends
