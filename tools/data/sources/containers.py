"""A dataset that `fastdeit convert` or FFCV made, as a source: .beton to shards and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex, open_dataset
from fastdeit.pipelines.datasets.names import Names
from fastdeit.tools.data.sources.listing import Listing, Request, fingerprint_of, times_of


@dataclass(frozen=True, slots=True)
class RawPixels:
    """Pixels in a file, rows after each other."""

    where: FileRange
    height: int
    width: int

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        pixels = np.frombuffer(self.where.read(), np.uint8)
        return pixels.reshape(self.height, self.width, 3)


class _Samples:
    def __init__(self, index: DatasetIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Request:
        index = self._index
        file = index.files[index.file_ids[number]]
        where = FileRange(str(file), int(index.offsets[number]), int(index.sizes[number]))
        if index.modes[number] == RAW_MODE:
            return RawPixels(where, int(index.heights[number]), int(index.widths[number]))
        return where


def list_container(path: Path) -> Listing:
    """List a .beton or a folder of our shards; UserError if it is damaged.

    Names and keys stay what they were.
    """
    index = open_dataset(path)
    names = index.names
    if names is None:
        names = Names.of(f"sample-{number:09d}" for number in range(len(index)))
    return Listing(
        path=path,
        kind=index.container,
        names=names,
        labels=index.labels,
        sizes=index.sizes,
        class_ids=list(index.class_ids),
        class_names=list(index.class_names),
        requests=_Samples(index),
        fingerprint=fingerprint_of(names, index.sizes, index.labels),
        times=times_of(index.files, index.file_ids),
    )
