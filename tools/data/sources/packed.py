"""Images in tars that gzip has packed: read forward, so that each is unpacked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.tar_bytes import TarBytes, is_gzip, open_tar
from fastdeit.tools.data.sources.listing import FileRanges


@dataclass(frozen=True, slots=True)
class PackedRange:
    """Bytes of a tar, packed or not, that hold one encoded image."""

    path: str
    offset: int
    """In what is unpacked."""
    size: int

    def read(self) -> bytes:
        """See `Request`; UserError if the file is damaged."""
        found = Path(self.path).stat()
        stream = _keep_open(self.path, found.st_mtime_ns, found.st_size)
        data = stream.pread(self.size, self.offset)
        if len(data) != self.size:
            raise ValueError(f"{len(data)} of {self.size} bytes: the file was cut since")
        return data


_opened: dict[tuple[str, int, int], TarBytes] = {}


def _keep_open(path: str, changed_ns: int, size: int) -> TarBytes:
    """A file, the only one that is kept open; another version is another file."""
    key = (path, changed_ns, size)
    if key not in _opened:
        while _opened:
            _opened.popitem()[1].close()
        _opened[key] = open_tar(Path(path))
    return _opened[key]


class PackedRanges(FileRanges):
    """A request for each image that lies in tars of which some are packed."""

    is_sequential = True

    def __getitem__(self, number: int) -> PackedRange:
        """The request for an image."""
        path = self.files[int(self.file_ids[number])]
        return PackedRange(path, int(self.offsets[number]), int(self.sizes[number]))


def ranges_in(
    files: Sequence[Path],
    file_ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> FileRanges:
    """A request for each image in some tars; (N,) as for `FileRanges`."""
    kind = PackedRanges if any(map(is_gzip, files)) else FileRanges
    return kind([str(file) for file in files], file_ids, offsets, sizes)
