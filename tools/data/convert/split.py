"""One source in two parts, to train on and to validate with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.keyed import Purpose, sample_states, uniform
from fastdeit.pipelines.datasets.index import empty_classes
from fastdeit.text.progress import say
from fastdeit.tools.data.convert.assembly import keys_of
from fastdeit.tools.data.sources.listing import Listing, Request, Requests, fingerprint_of


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Some of the requests of a listing."""

    requests: Requests
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Request:
        return self.requests[int(self.places[number])]


def split_listing(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """Divide a source into a part to train on and a part of about a share to validate with.

    Each image goes its own way, by its key and the seed: more images move none of those that were
    there. A class of which a part holds no image is named on stderr. Raises UserError if a part
    would be empty.
    """
    keys = keys_of(listing.names)
    states = sample_states(seed, Purpose.SPLIT, 0, keys, np.zeros(len(keys), np.int64))
    is_val = uniform(states, 0) < share
    parts = []
    for name, is_in in (("train", ~is_val), ("validation", is_val)):
        places = np.flatnonzero(is_in)
        if not len(places):
            raise UserError(
                f"each part of a split must hold an image. Found: none of {len(keys)} to "
                f"{'train on' if name == 'train' else 'validate with'}. Pass another --split-val, "
                "or another --split-seed."
            )
        part = _take(listing, places)
        had = np.isin(np.arange(len(listing.class_ids)), listing.labels)
        numbered = np.append(part.labels, np.flatnonzero(~had))  # those that never had one
        empty = empty_classes(numbered, listing.class_names)
        if empty is not None:
            say(f"{listing.path}, {name} part: {empty}; another --split-seed gives others")
        parts.append(part)
    return parts[0], parts[1]


def _take(listing: Listing, places: NDArray[np.int64]) -> Listing:
    names, sizes = listing.names.take(places), listing.sizes[places]
    labels = listing.labels[places]
    return replace(
        listing,
        names=names,
        sizes=sizes,
        labels=labels,
        times=None if listing.times is None else listing.times[places],
        requests=_Chosen(listing.requests, places),
        fingerprint=fingerprint_of(names, sizes, labels),
    )
