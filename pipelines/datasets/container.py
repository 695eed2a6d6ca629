"""What the writers of all containers share: samples are appended, and a stop loses nothing.

Where a sample goes follows from the sizes of those before it and from nothing else. So a writer
that is told the sizes of what was written before a stop knows where to go on, and the file becomes
the same in every byte as one that was written without a stop.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file that hold one encoded image."""

    path: str
    offset: int
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """The bytes; ValueError if the file ends before them."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(file, self.size, self.offset)
        finally:
            os.close(file)
        if len(data) != self.size:
            raise ValueError(f"{len(data)} of {self.size} bytes: the file was cut since")
        return data


class ContainerWriter(ABC):
    """Writes samples one after another into a folder of its own."""

    def __init__(self, folder: Path, max_samples: int) -> None:
        """Begin; `resume` goes on with what is there.

        The folder, which must exist, is where the unfinished files go. At most `max_samples` calls
        of `add` will come; fewer are fine.
        """
        self.folder = folder
        self.count = 0
        """Samples so far."""
        self.file_ids = np.zeros(max_samples, dtype=np.int32)
        self.offsets = np.zeros(max_samples, dtype=np.int64)
        self.sizes = np.zeros(max_samples, dtype=np.int64)
        self._handle = -1
        self._open_id = -1
        self._source_handle, self._source = -1, ""

    @abstractmethod
    def path_of(self, file_id: int) -> Path:
        """The unfinished file with a number."""

    @abstractmethod
    def place(self, size: int, label: int) -> tuple[int, int, int]:
        """Where the next sample, of `size` bytes, goes; it is then taken to be there.

        (number of the file, first byte in it of the image, bytes of the file after the sample).
        """

    def around(self, key: int, size: int, label: int, mode: int) -> tuple[bytes, bytes]:
        """What stands before and after the bytes of an image."""
        del key, size, label, mode
        return b"", b""

    def add(self, key: int, data: bytes | FileRange, label: int, mode: int) -> None:
        """Append one sample: the image or where it lies, with its stable key and class number.

        `mode` is as in `DatasetIndex.modes`. Raises OSError if the disk is full, say; what was
        there before is still whole.
        """
        size = len(data)
        file_id, offset, _ = self._take(size, label)
        if file_id != self._open_id:
            self._open(file_id, os.O_TRUNC)
        head, tail = self.around(key, size, label, mode)
        if isinstance(data, bytes):
            write_at(self._handle, (head, data, tail), offset - len(head))
            return
        if head:
            write_at(self._handle, (head,), offset - len(head))
        self._copy(data, offset)
        if tail:
            write_at(self._handle, (tail,), offset + size)

    def _copy(self, source: FileRange, offset: int) -> None:
        """Copy bytes of another file without taking them into this process, where that works."""
        if source.path != self._source:
            self._close_source()
            self._source_handle = os.open(source.path, os.O_RDONLY)
            self._source = source.path
        done = 0
        while done < source.size:
            copied = _copy_some(
                self._source_handle,
                self._handle,
                source.size - done,
                source.offset + done,
                offset + done,
            )
            if copied == 0:
                raise OSError(errno.EIO, "it was cut while it was read", source.path)
            done += copied

    def _close_source(self) -> None:
        if self._source:
            os.close(self._source_handle)
            self._source = ""

    def resume(self, sizes: Iterable[int], labels: Iterable[int]) -> bool:
        """Go on behind samples of some sizes and labels that were written before.

        Whether the files hold them all; False if they were cut since.
        """
        ends: dict[int, int] = {}
        for size, label in zip(sizes, labels, strict=True):
            file_id, _, end = self._take(size, label)
            ends[file_id] = end
        for file_id, end in ends.items():
            path = self.path_of(file_id)
            if not path.is_file() or path.stat().st_size < end:
                return False
        if ends:
            self._open(file_id)
            os.truncate(self._handle, end)
        return True

    def _take(self, size: int, label: int) -> tuple[int, int, int]:
        file_id, offset, end = self.place(size, label)
        self.file_ids[self.count], self.offsets[self.count] = file_id, offset
        self.sizes[self.count] = size
        self.count += 1
        return file_id, offset, end

    def _open(self, file_id: int, flags: int = 0) -> None:
        """Open a file to go on in, or with O_TRUNC to begin; the one before is put on the disk."""
        self.close()
        self._handle = os.open(self.path_of(file_id), os.O_RDWR | os.O_CREAT | flags, 0o666)
        self._open_id = file_id

    def sync(self) -> None:
        """Put everything on the disk that was added."""
        if self._handle >= 0:
            os.fsync(self._handle)

    def forget_older(self) -> None:  # noqa: B027 - most have nothing to forget
        """Remove what `sync` has made useless; called once a journal says how far it came."""

    def close(self) -> None:
        """Put everything on the disk and close the file."""
        self._close_source()
        if self._handle >= 0:
            try:
                self.sync()
            finally:
                os.close(self._handle)
                self._handle, self._open_id = -1, -1

    def written(self) -> dict[str, NDArray[Any]]:
        """The columns `file_ids`, `offsets` and `sizes` of the samples so far."""
        return {
            name: getattr(self, name)[: self.count] for name in ("file_ids", "offsets", "sizes")
        }

    @abstractmethod
    def finish(self, meta: dict[str, Any], columns: dict[str, Any]) -> Path:
        """Write what comes last and put everything on the disk.

        The result is the finished file or folder, still below `folder`. `meta` says how the
        container was made; `columns` are those of `DatasetIndex.columns` that `written` does not
        give, for the samples that were added.
        """


def write_at(handle: int, pieces: Sequence[bytes], offset: int) -> None:
    """Write all of some pieces at a place in a file."""
    total = sum(len(piece) for piece in pieces)
    done = os.pwritev(handle, pieces, offset)
    if done < total:  # a full disk may take a part; what is left then raises
        rest = memoryview(b"".join(pieces))
        while done < total:
            done += os.pwrite(handle, rest[done:], offset + done)


def _copy_some(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    """Copy up to `count` bytes between two open files; 0 at the end of the source."""
    try:
        return os.copy_file_range(source, target, count, source_at, target_at)
    except OSError as error:
        # Between these two file systems, or on this kernel, it has to go through this process.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    data = os.pread(source, count, source_at)
    write_at(target, (data,), target_at)
    return len(data)
