"""Reading and preparing the images of a source, in worker processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.index import sample_key
from fastdeit.tools.convert.prepare import ImageOptions, PreparedImage, prepare_image
from fastdeit.tools.sources.listing import Listing, Request
from fastdeit.tools.workers import CHUNK, ordered_map

CHUNK_BYTES = 2 << 20
"""A task ends early with so many bytes: what waits to be written must not fill the memory."""
SEQUENTIAL_CHUNK, SEQUENTIAL_BYTES = 64, 8 << 20
"""The same where neighbours are read together; Parquet's row groups often hold 100 images."""
PROBE_IMAGES = 64
"""So many images tell how large the result will be, where sizes of files do not."""

Item = tuple[int, Request]


class Preparation:
    """What happens to all images of a source."""

    def __init__(self, listing: Listing, options: ImageOptions, workers: int) -> None:
        """Remember what to prepare and how.

        Args:
            listing: the source.
            options: what happens to each image.
            workers: processes.
        """
        self.listing, self.options, self.workers = listing, options, workers

    def images(self, places: NDArray[np.int64]) -> Generator[PreparedImage, None, None]:
        """The images at some places of the listing, in that order."""
        return ordered_map(prepare_image, self.options, self._chunks(places), self.workers)

    def _chunks(self, places: NDArray[np.int64]) -> Iterator[list[Item]]:
        """Tasks for the workers: (key, request) of a few images."""
        most, most_bytes = CHUNK, CHUNK_BYTES
        if self.listing.is_sequential:
            most, most_bytes = SEQUENTIAL_CHUNK, SEQUENTIAL_BYTES
        chunk: list[Item] = []
        num_bytes = 0
        for place in map(int, places):
            chunk.append(self._item(place))
            num_bytes += int(self.listing.sizes[place])
            if len(chunk) == most or num_bytes >= most_bytes:
                yield chunk
                chunk, num_bytes = [], 0
        if chunk:
            yield chunk

    def _item(self, place: int) -> Item:
        """The key of an image and how to read it."""
        return sample_key(self.listing.names[place]), self.listing.requests[place]

    def expected_bytes(self) -> int:
        """About how many bytes the result takes: exact where files pass through."""
        sizes, options = self.listing.sizes, self.options
        is_kept = options.mode in ("auto", "jpg") and options.reencode != "all"
        if is_kept and options.max_side is None and options.short_side is None:
            return int(sizes.sum())
        # Evenly spread, and a little less than they promise: a guess must not refuse what fits.
        places = np.linspace(0, len(sizes) - 1, min(PROBE_IMAGES, len(sizes))).astype(np.int64)
        probed = [len(prepare_image(options, self._item(int(place))).data) for place in places]
        return int(0.9 * len(sizes) * sum(probed) / len(probed))
