"""ImageNet's own names, recovered from the names that its images bear in other stores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.index import sample_key
from fastdeit.pipelines.datasets.names import Names, imagenet_name

CONFLICT = ""


def find_wordnet_ids(paths: Names, labels: NDArray[np.int64], num_classes: int) -> list[str | None]:
    """The WordNet id of each class whose images all bear the same one, which no other class has."""
    found: list[str | None] = [None] * num_classes
    for path, label in zip(paths, labels.tolist(), strict=True):
        wordnet_id = imagenet_name(path.rpartition(".")[0]).partition("/")[0]
        if found[label] not in (None, wordnet_id):
            wordnet_id = CONFLICT
        found[label] = wordnet_id
    return [each if each and found.count(each) == 1 else None for each in found]


def name_images(
    paths: Names,
    labels: NDArray[np.int64],
    wordnet_ids: list[str | None],
    number_name: Callable[[int], str],
) -> Names:
    """Name every image: as in ImageNet's folders, else by its path, else by its number.

    A path is "" where the store has none; `number_name` gives a unique name for a number. The names
    are unique: where paths are not, over all images, all bear their number.
    """

    def name(number: int, path: str, label: int) -> str:
        known = imagenet_name(path.rpartition(".")[0]) if wordnet_ids[label] else ""
        if known:
            return known
        return path if is_usable(path) else number_name(number)

    names = Names.of(
        name(number, path, label)
        for number, (path, label) in enumerate(zip(paths, labels.tolist(), strict=True))
    )
    if are_unique(names):
        return names
    return Names.of(number_name(number) for number in range(len(paths)))


def is_usable(path: str) -> bool:
    """Whether a path found in a store can be a name: relative, printable, without `..`."""
    return bool(path) and path.isprintable() and path[0] != "/" and ".." not in path.split("/")


def are_unique(names: Names) -> bool:
    """Whether no two names have the same key."""
    keys = np.fromiter((sample_key(name) for name in names), np.uint64, len(names))
    return len(np.unique(keys)) == len(keys)
