"""What is converted: N images in an order, what is said of them, and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import sample_key
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.strays import Strays, shorten

Kind = Literal["beton", "webdataset", "part"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Assembly:
    """N images in the order in which they are written, and what is said of them."""

    kind: Kind
    names: Names
    keys: NDArray[np.uint64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """(N,) bytes in the source."""
    times: NDArray[np.int64]
    """(N,) when the file that holds it changed last, in nanoseconds; 0 if that says nothing."""
    class_ids: list[str]
    class_names: list[str]
    identity: dict[str, Any]
    """Of the conversion: an unfinished one goes on only if it is the same."""
    facts: dict[str, Any]
    """What the manifest says of the source."""
    largest_bytes: int
    """Size of the largest image in the source."""
    source: Path
    """For messages."""
    not_images: dict[str, Any] = field(default_factory=lambda: not_images(Strays()))
    """How many files of the source are none, and the first of them."""

    def take(self, places: NDArray[np.int64]) -> Assembly:
        """Those of some places, in their order."""
        return replace(
            self,
            names=self.names.take(places),
            keys=self.keys[places],
            labels=self.labels[places],
            sizes=self.sizes[places],
            times=self.times[places],
        )

    def in_key_order(self) -> tuple[Assembly, NDArray[np.int64]]:
        """Sort by key, which is a shuffle that never changes; beside it, where each image was.

        Raises UserError if two images have one name.
        """
        order = np.argsort(self.keys, kind="stable")
        keys = self.keys[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            one, other = (self.names[int(order[twice[0] + step])] for step in (0, 1))
            raise UserError(
                f"every image must have a name of its own. Found: {one} and {other} in "
                f"{self.source}. Rename one."
            )
        return self.take(order), order


def not_images(strays: Strays) -> dict[str, Any]:
    """What a manifest says of the files that are no images."""
    tally = strays.not_images
    return {"count": tally.count, "first": tally.first()}


def describe_not_images(found: dict[str, Any]) -> str:
    """The same for the end of a line; nothing if there are none."""
    count = found["count"]
    what = "file is no image of a class" if count == 1 else "files are no images of a class"
    return f"; {count} {what}: {shorten(found['first'], count)}" if count else ""


def keys_of(names: Names) -> NDArray[np.uint64]:
    """The stable keys of some names."""
    return np.fromiter((sample_key(name) for name in names), np.uint64, len(names))


def describe_difference(old: Any, new: dict[str, Any]) -> str:
    """What an unfinished conversion had that this one has not."""
    if not isinstance(old, dict):
        return "one of another version"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "one " + " and ".join(
        "of another source, or of this one before it changed"
        if name == "source"
        else f"with {name} {old.get(name)}, not {new.get(name)}"
        for name in names
    )
