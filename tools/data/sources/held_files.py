"""Listings of images that a dataset holds as files of its own, which pass through untouched."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import Names
from fastdeit.tools.data.sources.imagenet_names import are_unique
from fastdeit.tools.data.sources.listing import FileRanges, Listing, fingerprint_of


def list_held_files(
    root: Path,
    kind: str,
    names: Names,
    labels: NDArray[np.int64],
    class_ids: list[str],
    class_names: list[str],
    files: Names | None = None,
) -> Listing:
    """List files, each an image.

    `files` are their paths below `root`; the names, if not given. A file that is missing has size 0
    and raises when it is read, as every bad image does. Raises UserError if there are none, all are
    missing, or a name is not printable or there twice.
    """
    files = names if files is None else files
    sizes, times = _look_at(root, files)
    if not len(sizes) or not sizes.any():
        found = f"none of {len(sizes)} is there, {root / files[0]} first" if len(sizes) else "none"
        raise UserError(f"{kind} must hold images. Found: {found} in {root}. Unpack them there.")
    for name in names:
        if not name.isprintable():
            raise UserError(f"names must be printable. Found: {name!a} in {root}. Rename it.")
    if not are_unique(names):
        raise UserError(
            f"{kind} must list each image once. Found: one twice in {root}. Unpack it again."
        )
    numbers = np.arange(len(names), dtype=np.int64)
    return Listing(
        path=root,
        kind=kind,
        names=names,
        labels=labels,
        sizes=sizes,
        class_ids=class_ids,
        class_names=class_names,
        requests=FileRanges(files, numbers, np.zeros_like(numbers), sizes, str(root)),
        fingerprint=fingerprint_of(names, sizes, labels),
        times=times,
    )


def _look_at(root: Path, files: Names) -> NDArray[np.int64]:
    """(2, N) bytes and time of last change of each file; 0 where it is missing."""
    found = np.zeros((2, len(files)), np.int64)
    for number, name in enumerate(files):
        with suppress(OSError):
            stat = (root / name).stat()
            found[:, number] = stat.st_size, stat.st_mtime_ns
    return found
