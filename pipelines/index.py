"""The dataset index: where every sample's bytes are, in flat arrays, whatever the container."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from fastdeit import UserError

Container = Literal["beton", "webdataset", "imagefolder"]
JPEG_MODE, RAW_MODE = 0, 1


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetIndex:
    """N samples. All arrays are (N,)."""

    path: Path
    """What was opened."""
    container: Container
    """What kind of container it is."""
    files: tuple[Path, ...]
    """The files that hold the bytes."""
    file_ids: NDArray[np.int32]
    """Which of `files` holds the sample."""
    offsets: NDArray[np.int64]
    """Where its bytes begin in the file."""
    sizes: NDArray[np.int64]
    """How many bytes it has."""
    modes: NDArray[np.uint8]
    """0: an encoded image; 1: raw RGB, rows after each other (a mode of .beton)."""
    labels: NDArray[np.int64]
    """Class numbers from 0."""
    widths: NDArray[np.int32]
    """Columns in pixels."""
    heights: NDArray[np.int32]
    """Rows in pixels."""
    keys: NDArray[np.uint64]
    """Stable key of the image: the same in every container, whatever its position."""
    names: NDArray[np.bytes_] | None = None
    """Path of the image in the original source, UTF-8; None if the container does not say."""
    checksums: NDArray[np.uint64] | None = None
    """xxh3 of the sample's bytes; None if the container does not say."""
    class_ids: tuple[str, ...] = ()
    """Identifier of each class, such as a WordNet id."""
    class_names: tuple[str, ...] = ()
    """Words for each class."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """How the container was made: parameters, versions, irregular images."""

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.keys)

    def describe(self, sample: int) -> str:
        """Name a sample for a message: its file in the source, its number and its key."""
        name = "" if self.names is None else f"{bytes(self.names[sample]).decode()}, "
        return f"{self.path}: {name}sample {sample}, key {int(self.keys[sample]):016x}"

    def read(self, sample: int) -> bytes:
        """The bytes of one sample, as stored.

        Raises:
            UserError: the file ends before the sample does.
        """
        size = int(self.sizes[sample])
        with self.files[self.file_ids[sample]].open("rb") as file:
            data = os.pread(file.fileno(), size, int(self.offsets[sample]))
        if len(data) != size:
            raise UserError(
                f"sample is cut off. Found: {len(data)} of {size} bytes of "
                f"{self.describe(sample)}. "
                "Convert the source again."
            )
        return data


def sample_key(name: str) -> int:
    """The stable key of an image: a hash of its path in the original source.

    Args:
        name: path below the source's root, with forward slashes, such as
            "n01440764/n01440764_10026.JPEG".

    Returns:
        64 bits.
    """
    return xxhash.xxh3_64_intdigest(name.encode())


def checksum(data: bytes | memoryview) -> int:
    """The checksum of a sample's bytes: xxh3, 64 bits."""
    return xxhash.xxh3_64_intdigest(data)


def open_dataset(path: Path) -> DatasetIndex:
    """Open a dataset in any container that the pipelines read.

    Args:
        path: a .beton file, a folder of WebDataset shards made by `fastdeit convert`, or an
            ImageFolder (one folder a class).

    Raises:
        UserError: there is nothing at the path, or nothing that can be read.
    """
    from fastdeit.pipelines.beton import open_beton
    from fastdeit.pipelines.imagefolder import open_imagefolder
    from fastdeit.pipelines.webdataset import SIDECAR, open_webdataset

    if not path.exists():
        raise UserError(
            f"dataset does not exist. Found: nothing at {path}. "
            "Give a .beton, a folder of shards or an ImageFolder; `fastdeit convert` makes them."
        )
    if path.is_file():
        return open_beton(path)
    if (path / SIDECAR).is_file() or next(path.glob("*.tar"), None) is not None:
        return open_webdataset(path)
    return open_imagefolder(path)
