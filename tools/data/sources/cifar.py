"""CIFAR-10 and CIFAR-100 in the form for Python: pickles, which are read as data and never loaded.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, and torchvision's datasets/cifar.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import Names
from fastdeit.tools.data.sources.imagenet_names import are_unique, is_usable
from fastdeit.tools.data.sources.inert_pickle import Call, Name, read_inert_pickle
from fastdeit.tools.data.sources.listing import Listing, fingerprint_of
from fastdeit.tools.data.sources.pixels import PixelImages

ROW_BYTES = 3 * 32 * 32
# CIFAR-100's train is 155 MB.
MAX_FILE_BYTES = 1 << 29
RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
ENCODE = "_codecs.encode"
ALLOWED = frozenset((*RECONSTRUCT, ENCODE, "numpy.ndarray", "numpy.dtype"))


@dataclass(frozen=True)
class Layout:
    """Which files a CIFAR has, and under which keys they hold what."""

    folder: str
    splits: dict[str, tuple[str, ...]]
    meta: str
    labels: str
    class_names: str


LAYOUTS = {
    "CIFAR10": Layout(
        folder="cifar-10-batches-py",
        splits={
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        meta="batches.meta",
        labels="labels",
        class_names="label_names",
    ),
    "CIFAR100": Layout(
        folder="cifar-100-python",
        splits={"train": ("train",), "test": ("test",)},
        meta="meta",
        labels="fine_labels",
        class_names="fine_label_names",
    ),
}


def list_cifar(root: Path, name: str, split: str | None = None) -> Listing:
    """List the images of a CIFAR, which are read at once: 150 MB at most.

    `name` is CIFAR10 or CIFAR100, whose classes are the fine ones. `root` holds cifar-10-batches-py
    or cifar-100-python, or is that folder. Unless given, the split is train. Raises UserError if
    there is no such split, or a file is missing, damaged or something else.
    """
    layout = LAYOUTS[name]
    split = split or "train"
    if split not in layout.splits:
        raise UserError(
            f"split of {name} must be one of {', '.join(layout.splits)}. Found: {split}. "
            "Pass --split test for the images that it is evaluated on."
        )
    folder = root if (root / layout.meta).is_file() else root / layout.folder
    wanted = (layout.meta, *layout.splits[split])
    missing = [file for file in wanted if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name} must be the folder {layout.folder} with {', '.join(wanted)}. "
            f"Found: no {', '.join(missing)} in {folder}. "
            "Unpack the archive in the version for Python there."
        )
    class_names = read_class_names(folder / layout.meta, layout)
    batches = [
        _read_batch(folder / file, layout, len(class_names)) for file in layout.splits[split]
    ]
    data = np.concatenate([batch.data for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch.labels for batch in batches])
    names = _name_rows(split, len(data), [each for batch in batches for each in batch.filenames])
    sizes = np.full(len(data), ROW_BYTES, np.int64)
    return Listing(
        path=root,
        kind=name,
        names=names,
        labels=labels,
        sizes=sizes,
        class_ids=[str(number) for number in range(len(class_names))],
        class_names=class_names,
        requests=PixelImages(data),
        fingerprint=fingerprint_of(names, sizes, labels),
    )


@dataclass(frozen=True)
class Batch:
    """What one file holds: (N, 3072) pixels, (N,) labels, and N file names or none."""

    data: NDArray[np.uint8]
    labels: NDArray[np.int64]
    filenames: list[str]


def _name_rows(split: str, num_rows: int, filenames: list[str]) -> Names:
    """The images' file names if each has one of its own, else their numbers, below the split."""
    if len(filenames) == num_rows and all(is_usable(name) for name in filenames):
        names = Names.of(f"{split}/{name}" for name in filenames)
        if are_unique(names):
            return names
    return Names.of(f"{split}/{number:06d}" for number in range(num_rows))


def _read_batch(file: Path, layout: Layout, num_classes: int) -> Batch:
    content = _read_dict(file)
    try:
        data = _array_of(content.get("data"))
    except ValueError as error:
        raise broken(file, str(error)) from error
    labels: Any = content.get(layout.labels)
    filenames: Any = content.get("filenames", [])
    if not _is_list_of(int, labels) or not _is_list_of((str, bytes), filenames):
        raise broken(file, f"no list of numbers `{layout.labels}` or of names `filenames`")
    if not labels or len(labels) != len(data) or len(filenames) not in (0, len(data)):
        counts = f"{len(data)} images, {len(labels)} labels and {len(filenames)} names"
        raise broken(file, counts)
    if not 0 <= min(labels) <= max(labels) < num_classes:
        raise broken(file, f"labels {min(labels)} to {max(labels)} for {num_classes} classes")
    return Batch(data, np.array(labels, np.int64), [_text_of(name) for name in filenames])


def read_class_names(file: Path, layout: Layout) -> list[str]:
    """The names of the classes; UserError if the file holds something else."""
    names = _read_dict(file).get(layout.class_names)
    if not names or not _is_list_of((str, bytes), names):
        raise broken(file, f"no list of names `{layout.class_names}`")
    return [_text_of(name) for name in names]


def _read_dict(file: Path) -> dict[str, Any]:
    """What the dict in a pickle holds under each key; nothing in it is run."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise broken(file, f"{file.stat().st_size} bytes")
        content = read_inert_pickle(file.read_bytes(), ALLOWED)
    except (OSError, ValueError) as error:
        raise broken(file, str(error)) from error
    if not isinstance(content, dict):
        raise broken(file, f"a {type(content).__name__}, no dict")
    return {_text_of(key): value for key, value in content.items()}


def _array_of(value: Any) -> NDArray[np.uint8]:
    if not (isinstance(value, Call) and value.name in RECONSTRUCT):
        raise ValueError("no array `data`")
    try:
        _, shape, kind, is_fortran, raw = value.state
        is_bytes = kind.name == "numpy.dtype" and kind.args[0] in ("u1", "|u1")
    except (TypeError, ValueError, AttributeError, IndexError):
        raise ValueError("no whole array `data`") from None
    if not is_bytes or is_fortran or not isinstance(shape, tuple):
        raise ValueError("an array `data` that is not of bytes, row by row")
    if not _is_list_of(int, list(shape)):
        raise ValueError("an array `data` without a shape")
    data = bytes_of(raw)
    if len(shape) != 2 or shape[1] != ROW_BYTES or len(data) != shape[0] * ROW_BYTES:
        raise ValueError(f"an array `data` of {len(data)} bytes that says its shape is {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def bytes_of(value: Any) -> bytes:
    """A string of bytes, as Python 2 or Python 3 pickles it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Call) and value.name == ENCODE and isinstance(value.args, tuple):
        value = value.args[0] if value.args else None
    if isinstance(value, str):
        return value.encode("latin-1")  # UnicodeEncodeError is a ValueError
    raise ValueError("no string of bytes in the array `data`")


def _text_of(value: Any) -> str:
    """A key or a name, as Python 2 or Python 3 pickles it."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _is_list_of(kinds: type | tuple[type, ...], value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(
        isinstance(each, kinds) and not isinstance(each, bool | Name) for each in value
    )


def broken(file: Path, found: str) -> UserError:
    """The error for a file that is not CIFAR's."""
    return UserError(
        f"a CIFAR file must hold N images of 3072 bytes, their labels, or the classes' names. "
        f"Found: {found} in {file}. Unpack the original archive again."
    )
