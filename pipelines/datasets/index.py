"""The dataset index: where every sample's bytes are, in flat arrays, whatever the container."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.checkpoints.classes import NUM_SHOWN, Classes, Located
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.urls import refuse_url


class DamagedError(UserError):
    """A dataset of a known kind is not whole."""


Container = Literal["beton", "webdataset", "imagefolder"]
JPEG_MODE, RAW_MODE, PNG_MODE = 0, 1, 2
MAX_CLASSES = 1 << 20
"""Class numbers of others, who may write any, are below it."""


class FileState(NamedTuple):
    """What a file is while nobody writes to it or puts another in its place."""

    size: int
    inode: int
    time_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """What was found of a file."""
        return cls(found.st_size, found.st_ino, found.st_mtime_ns)

    def check(self, handle: int, path: Path) -> None:
        """Raise a UserError if an open file is not what it was when the dataset was opened."""
        now = FileState.of(os.fstat(handle))
        # Some network file systems number files anew.
        is_another = now.inode != self.inode and now.time_ns != self.time_ns
        if now.size != self.size or is_another:
            what = "another file" if is_another else f"{now.size} of {self.size} bytes"
            raise UserError(
                f"a dataset must stay as it is while it is read. Found: {what} at {path}. Keep "
                "others from writing to it, and start again."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetIndex:
    """N samples. All arrays are (N,)."""

    path: Path
    container: Container
    files: tuple[Path, ...]
    """The files that hold the bytes."""
    file_ids: NDArray[np.int32]
    """Which of `files` holds the sample."""
    offsets: NDArray[np.int64]
    """Where its bytes begin in the file."""
    sizes: NDArray[np.int64]
    """How many bytes it has."""
    modes: NDArray[np.uint8]
    """0: a JPEG (in folders and foreign shards any image that PIL knows); 1: raw RGB, rows after
    each other (a mode of .beton); 2: a PNG."""
    labels: NDArray[np.int64]
    """Class numbers from 0."""
    widths: NDArray[np.int32]
    """Columns in pixels."""
    heights: NDArray[np.int32]
    """Rows in pixels."""
    keys: NDArray[np.uint64]
    """Stable key of the image: the same in every container, whatever its position."""
    names: Names | None = None
    """Path of the image in the original source; None if the container does not say."""
    checksums: NDArray[np.uint64] | None = None
    """xxh3 of the sample's bytes; None if the container does not say."""
    class_ids: tuple[str, ...] = ()
    """Identifier of each class, such as a WordNet id."""
    class_names: tuple[str, ...] = ()
    """Words for each class."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """How the container was made: parameters, versions, irregular images."""
    states: tuple[FileState, ...] = ()
    """What each of `files` was when the index was made; empty in a folder, which has too many."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def was_decoded(self) -> bool:
        """Whether each image was decoded by PIL when the dataset was made."""
        parameters = self.made_by.get("parameters")
        return isinstance(parameters, dict) and parameters.get("check") == "decode"

    @property
    def classes(self) -> Classes:
        """What its class numbers stand for."""
        return Classes(self.class_names, self.class_ids)

    def renumbered(self, classes: Classes, located: Located) -> DatasetIndex:
        """The same samples with the class numbers of others, among which its own were located."""
        if located.is_in_order:
            return self
        numbers = np.array(located.numbers, dtype=np.int64)
        return replace(
            self,
            labels=numbers[self.labels],
            class_ids=classes.ids,
            class_names=classes.names,
        )

    def describe(self, sample: int) -> str:
        """Name a sample for a message: its file in the source, its number and its key."""
        name = "" if self.names is None else f"{self.names[sample]}, "
        return f"{self.path}: {name}sample {sample}, key {int(self.keys[sample]):016x}"

    def columns(self) -> dict[str, Any]:
        """What `fastdeit.pipelines.datasets.sidecar` stores of it, by the names of the fields."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {name: column for name, column in columns.items() if column is not None}

    def read(self, sample: int) -> bytes:
        """The bytes of one sample, as stored; UserError if the file ends before it does."""
        size = int(self.sizes[sample])
        with self._opened(sample) as file:
            data = os.pread(file, size, int(self.offsets[sample]))
        self._check_size(sample, len(data))
        return data

    def read_into(self, sample: int, room: NDArray[np.uint8]) -> None:
        """Read the bytes of one sample, as stored, into memory of its size; raises as `read`."""
        with self._opened(sample) as file:
            self._check_size(sample, os.preadv(file, [room.data], int(self.offsets[sample])))

    @contextmanager
    def _opened(self, sample: int) -> Iterator[int]:
        """The file of a sample; not by Path.open, which takes longer than the reading."""
        number = self.file_ids[sample]
        file = os.open(self.files[number], os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self.states:
                self.states[number].check(file, self.files[number])
            yield file
        finally:
            os.close(file)

    def _check_size(self, sample: int, num_read: int) -> None:
        if num_read != self.sizes[sample]:
            raise UserError(
                f"sample is cut off. Found: {num_read} of {self.sizes[sample]} bytes of "
                f"{self.describe(sample)}. Convert the source again."
            )


COLUMNS = (
    "file_ids",
    "offsets",
    "sizes",
    "modes",
    "labels",
    "widths",
    "heights",
    "keys",
    "names",
    "checksums",
)
"""The fields of `DatasetIndex` with a value for each sample."""


def index_from_columns(
    path: Path,
    container: Container,
    files: tuple[Path, ...],
    meta: dict[str, Any],
    columns: dict[str, Any],
) -> DatasetIndex:
    """Make an index of what a sidecar holds.

    Raises ValueError if a column is missing, has another length or type than the others, or a value
    that nothing could be read with.
    """
    known = {name: columns[name] for name in COLUMNS if name in columns}
    classes = [meta.get(name, []) for name in ("class_ids", "class_names")]
    if not all(isinstance(word, str) for words in classes for word in words):
        raise ValueError("its classes are not named by words")
    states = () if container == "imagefolder" else tuple(_state_of(file) for file in files)
    try:
        index = DatasetIndex(
            path=path,
            container=container,
            files=files,
            class_ids=tuple(classes[0]),
            class_names=tuple(classes[1]),
            made_by=meta,
            states=states,
            **known,
        )
    except TypeError as error:
        raise ValueError(f"a column is missing ({error})") from error
    _check_columns(index)
    return index


def _state_of(file: Path) -> FileState:
    # A shard that is missing is found by those who look at them all.
    return FileState.of(file.stat()) if file.is_file() else FileState(0, 0, 0)


def _check_columns(index: DatasetIndex) -> None:
    """Raise a ValueError for what would lead a reader astray: addresses are made of these."""
    columns = {name: column for name, column in index.columns().items() if name != "names"}
    shapes = {column.shape for column in columns.values()}
    if index.names is not None:
        shapes.add((len(index.names),))
        index.names.check()
    if shapes != {(len(index.keys),)} or len(index) == 0:
        raise ValueError("its columns do not have the same number of samples, or none")
    pixel_bytes = index.widths.astype(np.int64) * index.heights * 3
    last_class = len(index.class_ids) - 1 if index.class_ids else np.iinfo(np.int64).max
    for name, dtype, is_right in (
        ("file_ids", np.int32, _within(index.file_ids, 0, len(index.files) - 1)),
        ("offsets", np.int64, index.offsets >= 0),
        ("sizes", np.int64, index.sizes > 0),
        ("modes", np.uint8, index.modes <= PNG_MODE),
        ("labels", np.int64, _within(index.labels, 0, last_class)),
        ("widths", np.int32, index.widths > 0),
        ("heights", np.int32, index.heights > 0),
        ("sizes", np.int64, (index.modes != RAW_MODE) | (index.sizes == pixel_bytes)),
    ):
        column = columns[name]
        if column.dtype != dtype:
            raise ValueError(f"{name} of type {column.dtype}")
        if not is_right.all():
            sample = int(np.argmin(is_right))
            raise ValueError(f"{name} {column[sample]} of sample {sample}")


def _within(column: NDArray[Any], least: int, most: int) -> NDArray[np.bool_]:
    is_within: NDArray[np.bool_] = (column >= least) & (column <= most)
    return is_within


def empty_classes(labels: NDArray[np.int64], class_names: Sequence[str]) -> str | None:
    """Which classes no image has, in words; None if each has one.

    `labels` are (N,) class numbers. Numbers that count from 1, or have gaps, leave such classes.
    """
    per_class = np.bincount(labels, minlength=len(class_names))[: len(class_names)]
    empty = np.flatnonzero(per_class == 0).tolist()
    if not empty:
        return None
    first = [
        f"{number}{'' if class_names[number] == str(number) else f' ({class_names[number]})'}"
        for number in empty[:NUM_SHOWN]
    ]
    if len(empty) == 1:
        return f"class {first[0]} has no image"
    more = f" and {len(empty) - NUM_SHOWN:,} more" if len(empty) > NUM_SHOWN else ""
    return f"{len(empty):,} of {len(per_class):,} classes have no image: {', '.join(first)}{more}"


def sample_key(name: str) -> int:
    """The stable key of an image: a hash, of 64 bits, of its path in the original source.

    The path is below the source's root, with forward slashes, such as
    "n01440764/n01440764_10026.JPEG".
    """
    return xxhash.xxh3_64_intdigest(name.encode())


def checksum(data: bytes | memoryview) -> int:
    """The checksum of a sample's bytes: xxh3, 64 bits."""
    return xxhash.xxh3_64_intdigest(data)


def open_dataset(path: Path) -> DatasetIndex:
    """Open a dataset in any container that the pipelines read.

    Args:
        path: a .beton file, a folder of WebDataset shards, or an ImageFolder (one folder a class);
            made by `fastdeit convert` or by others.

    Raises:
        UserError: there is nothing at the path, or nothing that can be read.
    """
    refuse_url(path)
    if not path.exists():
        raise UserError(
            f"dataset does not exist. Found: nothing at {path}. "
            "Give a .beton, a folder of shards or an ImageFolder; `fastdeit convert` makes them."
        )
    # Each format is imported when it is needed: they bring PIL, which most do without.
    from fastdeit.pipelines.datasets.webdataset import SIDECAR, lost_index, open_webdataset

    if path.is_file() and path.suffix != ".tar":
        from fastdeit.pipelines.datasets.beton import looks_like_beton, open_beton

        if path.suffix != ".beton" and not looks_like_beton(path):
            raise UserError(
                f"dataset must be a .beton, a folder of shards or an ImageFolder. Found: {path}. "
                "`fastdeit convert` makes one of it, if it is a source."
            )
        return open_beton(path)
    if (path / SIDECAR).is_file():
        return open_webdataset(path)
    if lost_index(path):
        raise DamagedError(
            f"{path} must hold {SIDECAR} beside the shards of `fastdeit convert`. Found: none. "
            "Copy it too, or convert the source again."
        )
    if path.is_file() or next(path.glob("[!.]*.tar"), None) is not None:
        from fastdeit.pipelines.datasets.foreign import index_foreign_shards

        return index_foreign_shards(path)
    from fastdeit.pipelines.datasets.imagefolder import open_imagefolder

    return open_imagefolder(path)
