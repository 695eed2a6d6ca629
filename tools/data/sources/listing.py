"""What a source gives: a listing of its images, and a request for each that a worker can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.strays import Strays


class Request(Protocol):
    """How to get one image: small, so that it can be sent to a worker process."""

    def read(self) -> bytes | NDArray[np.uint8]:
        """The image as it is stored: an encoded file, or (H, W, 3) uint8 RGB pixels.

        OSError or ValueError say that it cannot be read; the image is then reported as bad.
        """
        ...


class Requests(Protocol):
    """A request for each image, made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Request: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """N images, in the order in which the source holds them."""

    path: Path
    """The source, for messages."""
    kind: str
    """imagefolder, ilsvrc, webdataset, parquet or a torchvision class."""
    names: Names
    """Name of each image, unique and stable: its key is the hash of it (`sample_key`). Where the
    images are ImageNet's it is WNID/FILE.JPEG, whatever they lie in."""
    labels: NDArray[np.int64]
    """(N,) class numbers from 0."""
    sizes: NDArray[np.int64]
    """(N,) bytes of each as it is stored."""
    class_ids: list[str]
    """Identifier of each class, such as a WordNet id."""
    class_names: list[str]
    """Words for each class."""
    requests: Requests
    """One for each image, made when it is asked for."""
    fingerprint: str
    """Hash of what another source would have otherwise: names, sizes, labels. Not times: a copy is
    the same source."""
    times: NDArray[np.int64] | None = None
    """(N,) nanoseconds of the last change of the file that holds it, 0 where it is missing; None
    where the images are not read from files as they are."""
    strays: Strays = field(default_factory=Strays)
    """What else the source holds."""
    is_sequential: bool = False
    """Whether reading in another order than the source's own would be far slower."""

    def __len__(self) -> int:
        return len(self.names)


class FileRanges:
    """A request for each image that lies in files as it is."""

    is_sequential = False
    """See `Listing.is_sequential`."""

    def __init__(
        self,
        files: Sequence[str] | Names,
        file_ids: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        root: str = "",
    ) -> None:
        """Remember where the images are: (N,) which of some files, first byte in it, and bytes.

        `root` is put in front of each path, with a slash.
        """
        self.files, self.file_ids, self.offsets, self.sizes = files, file_ids, offsets, sizes
        self.root = f"{root}/" if root else ""

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, number: int) -> Request:
        path = self.root + self.files[int(self.file_ids[number])]
        return FileRange(path, int(self.offsets[number]), int(self.sizes[number]))


def times_of(files: Sequence[Path], file_ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The times of last change of the files that hold some images, of which each tells its file."""
    times = np.array([file.stat().st_mtime_ns for file in files], dtype=np.int64)
    return times.take(file_ids)


def fingerprint_of(names: Names, sizes: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
    """The hash of a listing: 32 hexadecimal digits."""
    import xxhash

    digest = xxhash.xxh3_128()
    for array in (names.text, names.ends, sizes.astype("<i8"), labels.astype("<i8")):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
