"""WebDataset shards that other programs made: read in place, from their tar headers and labels.

They have no index; `index_foreign_shards` makes one, which takes a while for a large dataset.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.cache import cached_columns, state_of
from fastdeit.pipelines.datasets.imagefolder import read_class_names
from fastdeit.pipelines.datasets.index import DatasetIndex, index_from_columns, sample_key
from fastdeit.pipelines.datasets.jpeg_head import HEAD_BYTES, read_jpeg_head
from fastdeit.pipelines.datasets.names import SPLITS, Names
from fastdeit.pipelines.datasets.pictures import PictureError, open_picture
from fastdeit.pipelines.datasets.shard_samples import samples_of
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.tar_bytes import is_gzip


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignShards:
    """N samples in the order of the shards."""

    files: tuple[Path, ...]
    file_ids: NDArray[np.int64]
    """(N,) which shard."""
    offsets: NDArray[np.int64]
    """(N,) first byte of the image in it."""
    sizes: NDArray[np.int64]
    """(N,) bytes of the image."""
    labels: NDArray[np.int64]
    """(N,) class numbers from 0."""
    names: Names
    """WNID/FILE.JPEG where the key or the .json tells of ImageNet; else KEY.EXTENSION, behind the
    shard's name and a slash if keys return in other shards. Unique."""
    keys: NDArray[np.uint64]
    """(N,) `sample_key` of each name."""
    class_ids: list[str]
    """WordNet id of each class, where all its images agree on one, else the number."""
    strays: Strays
    """What else is in the shards."""


def find_shards(path: Path, endings: tuple[str, ...] = (".tar",)) -> list[Path]:
    """The shards at a path, which is one or a folder of them; shard-10 comes after shard-9.

    Raises UserError if there are none.
    """
    files = [path] if path.is_file() else list(path.glob("[!.]*"))
    files = [file for file in files if file == path or file.name.endswith(endings)]
    if not files:
        raise UserError(f"shards must be *.tar. Found: none in {path}. Give their folder.")
    return sorted(files, key=natural_order)


def shards_by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort shards by the split that their names tell: train, val or test; "" if none."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = re.findall("[a-z]+", file.stem.lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), "")
        splits.setdefault(split, []).append(file)
    return splits


def describe_splits(splits: dict[str, list[Path]]) -> str:
    """Name splits and how many shards they have, for a message."""
    return ", ".join(f"{len(files)} of {name or 'no split'}" for name, files in splits.items())


def scan_shards(files: Sequence[Path]) -> ForeignShards:
    """Find every sample of some shards; that hidden members are left out is said.

    Raises UserError as `samples_of`, or if there are no samples, or two of one name.
    """
    columns = array("q")
    has_wnid = bytearray()
    wnids: dict[int, str] = {}
    strays = Strays()

    def names() -> Iterator[str]:
        for file_id, file in enumerate(files):
            for sample in samples_of(file, strays):
                label, image, known = sample.label, sample.image, sample.imagenet_name
                columns.extend((file_id, image.offset, image.size, label))
                wnid = known.partition("/")[0]
                if wnids.setdefault(label, wnid) != wnid:
                    wnids[label] = ""
                has_wnid.append(bool(known))
                yield known or f"{sample.key}.{sample.extension}"

    found = Names.of(names())
    if not len(found):
        raise UserError(f"shards must hold samples. Found: none in {files[0]}. Give others.")
    file_ids, offsets, sizes, labels = np.frombuffer(columns, np.int64).reshape(-1, 4).T.copy()
    strays.say_hidden(files[0].parent)
    unique, keys = _unique_names(found, files, file_ids, np.frombuffer(has_wnid, np.bool_))
    return ForeignShards(
        files=tuple(files),
        file_ids=file_ids,
        offsets=offsets,
        sizes=sizes,
        labels=labels,
        names=unique,
        keys=keys,
        class_ids=_class_ids(wnids),
        strays=strays,
    )


def index_foreign_shards(path: Path) -> DatasetIndex:
    """Open shards that `fastdeit convert` did not make.

    `path` is a folder of *.tar, all of one split, or one .tar. The first time every tar header and
    the head of every image is read; the index is then kept in the cache. Raises UserError as
    `scan_shards`, for several splits, and if a member that should be an image is none.
    """
    files = find_shards(path)
    splits = shards_by_split(files)
    if len(splits) > 1:
        raise UserError(
            "shards must be those of one split. Found: "
            f"{describe_splits(splits)}, in {path}. Move them into one folder a split."
        )
    folder = path if path.is_dir() else path.parent

    def make() -> tuple[dict[str, Any], dict[str, Any]]:
        _refuse_packed(files, path)
        shards = scan_shards(files)
        widths, heights = _measure(shards)
        return {"class_ids": shards.class_ids}, {
            "file_ids": shards.file_ids.astype(np.int32),
            "offsets": shards.offsets,
            "sizes": shards.sizes,
            "modes": np.zeros(len(shards.keys), dtype=np.uint8),
            "labels": shards.labels,
            "widths": widths,
            "heights": heights,
            "keys": shards.keys,
            "names": shards.names,
        }

    meta, columns = cached_columns(path, state_of(files), make)
    meta["class_names"] = read_class_names(folder, meta["class_ids"])
    return index_from_columns(path, "webdataset", tuple(files), meta, columns)


def _refuse_packed(files: Sequence[Path], path: Path) -> None:
    """Raise a UserError if a shard is packed by gzip: nothing in it can be read by its place."""
    packed = next(filter(is_gzip, files), None)
    if packed is not None:
        raise UserError(
            f"shards that are read in place must not be packed. Found: gzip data in {packed}. "
            f"`fastdeit convert {path} OUT` reads them; or unpack it first: gzip -d FILE."
        )


def natural_order(file: Path) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts the digits in the names of files by their value."""
    pieces = re.findall(r"\d+|\D+", file.name)
    numbers = [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]
    return numbers, file.name


def _unique_names(
    names: Names, files: Sequence[Path], file_ids: NDArray[np.int64], has_wnid: NDArray[np.bool_]
) -> tuple[Names, NDArray[np.uint64]]:
    """Names of which none comes twice, and their keys."""
    keys, repeated = _hash(names)
    if repeated is not None:
        # All of them, not those that return: one rule for a whole dataset.
        names = Names.of(
            name if has_wnid[number] else f"{files[int(file_ids[number])].name}/{name}"
            for number, name in enumerate(names)
        )
        keys, repeated = _hash(names)
    if repeated is not None:
        raise UserError(
            f"an image must be there once. Found: {names[repeated]} twice, the second time in "
            f"{files[int(file_ids[repeated])]}. Remove one of the two, or the shard."
        )
    return names, keys


def _hash(names: Names) -> tuple[NDArray[np.uint64], int | None]:
    """The key of each name, and the number of a name that was there before."""
    keys = np.fromiter((sample_key(name) for name in names), np.uint64, len(names))
    order = np.argsort(keys, kind="stable")
    is_repeated = keys[order][1:] == keys[order][:-1]
    return keys, int(order[1:][is_repeated].min()) if is_repeated.any() else None


def _class_ids(wnids: dict[int, str]) -> list[str]:
    """Identifiers of classes 0 to the highest, from the WordNet id of each; "" is unknown."""
    known = [wnid for wnid in wnids.values() if wnid]
    if len(set(known)) < len(known):  # two numbers for one id: the numbers are of another kind
        wnids = dict.fromkeys(wnids, "")
    return [wnids.get(label) or str(label) for label in range(max(wnids) + 1)]


def _measure(shards: ForeignShards) -> NDArray[np.int32]:
    """Width and height of each image, (2, N)."""
    pixels = np.zeros((2, len(shards.keys)), dtype=np.int32)
    opened, descriptor = -1, -1
    try:
        rows = zip(
            shards.file_ids.tolist(), shards.offsets.tolist(), shards.sizes.tolist(), strict=True
        )
        for number, (file_id, offset, size) in enumerate(rows):
            if file_id != opened:
                if descriptor >= 0:
                    os.close(descriptor)
                opened, descriptor = file_id, os.open(shards.files[file_id], os.O_RDONLY)
            found = _size_in_pixels(descriptor, offset, size)
            if found is None:
                raise UserError(
                    f"every image must be readable. Found: {shards.names[number]}, {size} bytes, "
                    f"in {shards.files[file_id]}. Make the shards anew without it."
                )
            pixels[:, number] = found
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return pixels


def _size_in_pixels(descriptor: int, offset: int, size: int) -> tuple[int, int] | None:
    """(width, height) of an image, reading as little of it as possible; None if it is none."""
    data = b""
    for limit in (4096, HEAD_BYTES, size):
        data = os.pread(descriptor, min(limit, size), offset)
        head = read_jpeg_head(data, is_whole=False)
        if head is not None:
            return head.width, head.height
        if data[:2] != b"\xff\xd8" or len(data) == size:
            break
    data = os.pread(descriptor, size, offset)
    try:
        with open_picture(data) as image:
            return image.size
    except PictureError:
        return None
