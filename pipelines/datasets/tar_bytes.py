"""The bytes of a tar: of a file as it is, read anywhere, or of one that gzip has packed."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import deque
from pathlib import Path
from typing import Protocol

from fastdeit import UserError

GZIP_ENDINGS = (".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20
# What lies behind the place of reading and can still be had: the other members of a sample.
_KEPT_BLOCKS = 64
_NO_END = 1 << 62


class TarBytes(Protocol):
    """Bytes that can be asked for by their place."""

    end: int
    """How many there are; if that is not known, more than there can be."""

    def pread(self, size: int, at: int) -> bytes:
        """Up to `size` bytes from a place on; fewer at the end only."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class PlainBytes:
    """The bytes of a file."""

    def __init__(self, path: Path) -> None:
        """Open it; UserError if that fails."""
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"a tar must be readable. Found: {error}. Give a tar file.") from error
        self.end = os.fstat(self._descriptor).st_size

    def pread(self, size: int, at: int) -> bytes:
        """See `TarBytes`."""
        return os.pread(self._descriptor, size, at)

    def close(self) -> None:
        """See `TarBytes`."""
        os.close(self._descriptor)


class GzipBytes:
    """What gzip has packed into a file; quick only where places come in ascending order."""

    end = _NO_END

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._path = path
        self._file = gzip.open(path)
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._blocks: deque[bytes] = deque(maxlen=_KEPT_BLOCKS)
        self._next = 0

    def pread(self, size: int, at: int) -> bytes:
        """See `TarBytes`; UserError if the file is damaged or cut."""
        pieces = []
        while size > 0 and (block := self._block(at // _BLOCK_BYTES)):
            piece = block[at % _BLOCK_BYTES :][:size]
            if not piece:
                break
            pieces.append(piece)
            at, size = at + len(piece), size - len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        """A block of the packed bytes; empty behind the end."""
        if number < self._next - len(self._blocks):
            self._begin()
        while self._next <= number:
            try:
                block = self._file.read(_BLOCK_BYTES)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise UserError(
                    f"a packed tar must be whole. Found: {error} in {self._path}. Copy or download "
                    "it again."
                ) from error
            if not block:
                return b""
            self._blocks.append(block)
            self._next += 1
        return self._blocks[number - self._next]

    def check_rest(self) -> None:
        """Read to the end, where gzip's checksum is; UserError if the file is damaged or cut."""
        while self._block(self._next):
            pass

    def close(self) -> None:
        """See `TarBytes`."""
        self._file.close()


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip's do."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def open_tar(path: Path) -> PlainBytes | GzipBytes:
    """Open a tar, packed by gzip or not; UserError if it cannot be opened."""
    plain = PlainBytes(path)
    if plain.pread(len(_GZIP), 0) != _GZIP:
        return plain
    plain.close()
    return GzipBytes(path)
