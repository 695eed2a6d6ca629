"""How far a conversion came: an append-only file that a kill at any moment leaves readable.

The first block says what is being converted and how; each later one holds a few images: a fixed
record for each and, as JSON, the notes and errors of those that have any. A block counts only if
its checksum is right, and it is written only after the images that it speaks of are on the disk.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.container import write_at
from fastdeit.tools.data.convert.prepare_image import PreparedImage

_FIELDS = [
    ("checksum", "<u8"),
    ("source_bytes", "<u8"),
    ("size", "<u4"),
    ("width", "<u2"),
    ("height", "<u2"),
    ("mode", "<u1"),
    ("is_bad", "<u1"),
]
RECORD = np.dtype([*_FIELDS, ("source_time", "<i8")])
_HEAD = struct.Struct("<8sQQQ")  # magic, records, bytes of text, checksum of all that follows
_MAGIC = b"fdjourn2"
# What was written before there were times.
_RECORDS = {_MAGIC: RECORD, b"fdjourn1": np.dtype(_FIELDS)}


class Journal:
    """The records of the images that were dealt with, in their order."""

    def __init__(self, path: Path, num_images: int) -> None:
        """Open a journal, new or not, of so many images in all."""
        self.records: NDArray[Any] = np.zeros(num_images, dtype=RECORD)
        """Of each image so far, and room for the others."""
        self.count = 0
        """How many images were dealt with; `commit` writes those that are not written yet."""
        self.remarks: list[tuple[int, str, str]] = []
        """(place, "note" or "error", text) of each image that has one."""
        self.identity: Any = None
        """What is being converted and how; None in a new journal."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._end = 0
        self._committed = (0, 0)
        self._read()

    def _read(self) -> None:
        """Read all blocks up to the first that is not whole; the next write drops what follows."""
        while (block := self._read_block()) is not None:
            records, text = block
            if self.identity is None:
                self.identity = text
                continue
            last = self.count + len(records)
            if last > len(self.records):  # it is another conversion's
                break
            self.records[self.count : last] = records
            self.remarks += [(place, what, reason) for place, what, reason in text]
            self.count = last
        self._committed = (self.count, len(self.remarks))

    def _read_block(self) -> tuple[NDArray[Any], Any] | None:
        """The block at `_end`, or None if there is no whole one."""
        head = os.pread(self._handle, _HEAD.size, self._end)
        if len(head) < _HEAD.size:
            return None
        magic, num, text_bytes, expected = _HEAD.unpack(head)
        kind = _RECORDS.get(magic)
        if kind is None:
            return None
        size = num * kind.itemsize + text_bytes
        if size > os.fstat(self._handle).st_size:
            return None
        body = os.pread(self._handle, size, self._end + _HEAD.size)
        if len(body) < size or xxhash.xxh3_64_intdigest(body) != expected:
            return None
        self._end += _HEAD.size + size
        records = np.zeros(num, RECORD)
        for name in kind.names or ():
            records[name] = np.frombuffer(body, kind, num)[name]
        return records, json.loads(body[num * kind.itemsize :])

    def _write_block(self, records: NDArray[Any], text: Any) -> None:
        """Append one block and put it on the disk."""
        body = records.tobytes() + json.dumps(text).encode()
        text_bytes = len(body) - records.nbytes
        digest = xxhash.xxh3_64_intdigest(body)
        head = _HEAD.pack(_MAGIC, len(records), text_bytes, digest)
        os.truncate(self._handle, self._end)
        write_at(self._handle, (head, body), self._end)
        os.fsync(self._handle)
        self._end += len(head) + len(body)

    def begin(self, identity: Any) -> None:
        """Drop everything and begin with what is being converted and how, as JSON can hold it."""
        self._end, self.count, self._committed, self.remarks = 0, 0, (0, 0), []
        self._write_block(self.records[:0], identity)
        self.identity = identity

    def add(self, image: PreparedImage, source_bytes: int, source_time: int) -> None:
        """Take down one image, its size and time in the source, until the next `commit`."""
        self.records[self.count] = (
            image.checksum,
            source_bytes,
            len(image.data),
            image.width,
            image.height,
            image.mode,
            bool(image.error),
            source_time,
        )
        for what, text in (("note", image.note), ("error", image.error)):
            if text:
                self.remarks.append((self.count, what, text))
        self.count += 1

    def commit(self) -> None:
        """Write down what was added; the images themselves must be on the disk."""
        first, first_remark = self._committed
        if first < self.count:
            self._write_block(self.records[first : self.count], self.remarks[first_remark:])
            self._committed = (self.count, len(self.remarks))

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        os.close(self._handle)
