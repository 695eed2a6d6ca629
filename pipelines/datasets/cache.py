"""Indexes of what we did not write: made once, then kept in the user's cache folder.

Nothing is written beside somebody else's data. A cached index counts only while the name, size and
time of change of every file of the dataset are what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from fastdeit.files import replacing, user_cache
from fastdeit.pipelines.datasets.sidecar import read_sidecar, write_sidecar

VERSION = 2
"""Raised when the same files would give another index."""


def state_of(files: Sequence[Path]) -> str:
    """What changes when one of some files does: 32 hexadecimal digits."""
    digest = xxhash.xxh3_128(str(VERSION).encode())
    for file in files:
        found = file.stat()
        digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached_columns(
    path: Path, state: str, make: Callable[[], tuple[dict[str, Any], dict[str, Any]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts and columns of a dataset: those that were kept, or new ones, which are then kept.

    `state` is that of its files, see `state_of`. A cache that cannot be written is done without.
    """
    name = xxhash.xxh3_128(str(path.resolve()).encode()).hexdigest()
    kept = user_cache() / "indexes" / f"{name}.safetensors"
    try:
        meta, columns = read_sidecar(kept)
        if meta.pop("state") == state:
            return meta, columns
    except (OSError, ValueError, KeyError):
        pass
    meta, columns = make()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as file:
            write_sidecar(file, {**meta, "state": state}, columns)
    except OSError:
        pass
    return meta, columns
