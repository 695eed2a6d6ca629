"""WebDataset shards: plain tar files, each with DALI's .idx (v1.2) and all with one sidecar.

A sample is KEY.jpg and KEY.cls, where KEY is its stable key in hexadecimal. The sidecar says where
each image lies, so that opening 1.28 million samples does not read 1.28 million tar headers.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.index import DatasetIndex
from fastdeit.pipelines.sidecar import pack_sidecar, unpack_sidecar

SIDECAR = "index.npz"
SHARD_BYTES = 256 << 20
IDX_VERSION = "v1.2"


class WebDatasetWriter:
    """Writes shards into a temporary folder and gives the folder its name at the end."""

    def __init__(self, path: Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Begin a set of shards.

        Args:
            path: the final folder; nothing is there until `finish`.
            shard_bytes: about how large a shard becomes.
        """
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        # What a killed conversion left behind.
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        self.shard_bytes = shard_bytes
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._shard: tarfile.TarFile | None = None
        self._lines: list[str] = []
        self._num_shards = 0

    def add(self, key: int, data: bytes, width: int, height: int, label: int) -> None:
        """Append one sample.

        Args:
            key: its stable key.
            data: a JPEG.
            width: columns in pixels.
            height: rows in pixels.
            label: class number.
        """
        if self._shard is not None and self._shard.offset >= self.shard_bytes:
            self._close_shard()
        if self._shard is None:
            self._shard = tarfile.open(
                self.partial / f"shard-{self._num_shards:06d}.tar", "w", format=tarfile.USTAR_FORMAT
            )
            self._num_shards += 1
        stem = f"{key:016x}"
        offset = self._add_member(f"{stem}.jpg", data)
        text = str(label).encode()
        label_offset = self._add_member(f"{stem}.cls", text)
        self._lines.append(
            f"jpg {offset} {len(data)} {stem}.jpg cls {label_offset} {len(text)} {stem}.cls"
        )
        self._rows.append((self._num_shards - 1, offset, len(data), label, width, height))

    def finish(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Write the sidecar, flush everything to the disk, and give the folder its name.

        Args:
            meta: facts for the sidecar.
            arrays: (N,) arrays for the sidecar: keys, checksums, names.
        """
        self._close_shard()
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 6)
        columns = dict(
            zip(("shards", "offsets", "sizes", "labels", "widths", "heights"), rows.T, strict=True)
        )
        (self.partial / SIDECAR).write_bytes(pack_sidecar(meta, {**columns, **arrays}))
        for file in self.partial.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        aside = self.path.with_name(f".{self.path.name}.old")
        if self.path.exists():
            self.path.replace(aside)
        self.partial.replace(self.path)
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)

    def _add_member(self, name: str, data: bytes) -> int:
        """Append one file to the shard; return where its bytes begin."""
        assert self._shard is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        block = member.tobuf(self._shard.format)
        padding = -len(data) % tarfile.BLOCKSIZE
        assert self._shard.fileobj is not None
        self._shard.fileobj.write(block + data + b"\0" * padding)
        offset = self._shard.offset + len(block)
        self._shard.offset = offset + len(data) + padding
        return offset

    def _close_shard(self) -> None:
        """End the current shard and write its .idx."""
        if self._shard is None:
            return
        path = Path(str(self._shard.name))
        self._shard.close()
        head = f"{IDX_VERSION} {len(self._lines)}"
        path.with_suffix(".idx").write_text("\n".join([head, *self._lines]) + "\n")
        self._shard, self._lines = None, []

    def __enter__(self) -> WebDatasetWriter:
        """Enter a block; leaving it by an exception removes the temporary folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is unfinished."""
        try:
            if self._shard is not None:
                self._shard.close()
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)


def is_shard_file(path: Path) -> bool:
    """Whether a file in a folder of shards is one that `WebDatasetWriter` makes."""
    return path.name == SIDECAR or re.fullmatch(r"shard-\d{6}\.(tar|idx)", path.name) is not None


def open_webdataset(path: Path) -> DatasetIndex:
    """Open a folder of shards that `fastdeit convert` made.

    Raises:
        UserError: the sidecar is missing or damaged, or a shard is missing or cut off.
    """
    sidecar = path / SIDECAR
    way_out = "Convert the source again with `fastdeit convert`."
    if not sidecar.is_file():
        raise UserError(
            f"{path} must hold {SIDECAR} beside its shards. Found: none. "
            "Shards of other programs cannot be read yet; make them with `fastdeit convert`."
        )
    try:
        meta, arrays = unpack_sidecar(sidecar.read_bytes())
    except ValueError as error:
        raise UserError(f"{sidecar} cannot be read. Found: {error}. {way_out}") from error
    shards = arrays["shards"]
    files = tuple(path / f"shard-{number:06d}.tar" for number in range(int(shards.max()) + 1))
    ends = arrays["offsets"] + arrays["sizes"]
    for number, file in enumerate(files):
        needed = int(ends[shards == number].max())
        found = file.stat().st_size if file.is_file() else -1
        if found < needed:
            what = "no such file" if found < 0 else f"{found} of at least {needed} bytes"
            raise UserError(f"{file} is not a whole shard. Found: {what}. {way_out}")
    return DatasetIndex(
        path=path,
        container="webdataset",
        files=files,
        file_ids=shards.astype(np.int32),
        offsets=arrays["offsets"],
        sizes=arrays["sizes"],
        modes=np.zeros(len(shards), dtype=np.uint8),
        labels=arrays["labels"],
        widths=arrays["widths"].astype(np.int32),
        heights=arrays["heights"].astype(np.int32),
        keys=arrays["keys"],
        names=arrays.get("names"),
        checksums=arrays.get("checksums"),
        class_ids=tuple(meta.get("class_ids", ())),
        class_names=tuple(meta.get("class_names", ())),
        made_by=meta,
    )
