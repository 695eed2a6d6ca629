"""torchvision's datasets as sources: files pass through untouched, arrays as their pixels."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import Names
from fastdeit.tools.data.sources.cifar import LAYOUTS, list_cifar
from fastdeit.tools.data.sources.held_files import list_held_files
from fastdeit.tools.data.sources.inaturalist import find_year, list_inaturalist
from fastdeit.tools.data.sources.listing import Listing, Requests, fingerprint_of
from fastdeit.tools.data.sources.pixels import PixelImages
from fastdeit.tools.data.sources.vision_open import (
    VisionItem,
    VisionSet,
    find_class,
    open_split,
    plain,
)

# Their order is the file system's, which differs from machine to machine.
UNORDERED = ("INaturalist", "SUN397")
NUM_PROBES = 8
JOINED: dict[str, dict[str, tuple[str, ...]]] = {"Flowers102": {"trainval": ("train", "val")}}
"""Splits of several of torchvision's: DeiT trains on both of Flowers-102 (Table 6: 2,040)."""


def guess_vision_set(path: Path) -> str | None:
    """The name of the dataset that a folder is the root of; None if it is none that is known.

    These are the datasets that DeiT is fine-tuned on. Source: DeiT, arXiv:2012.12877, table 6.
    """
    folders = {layout.folder: name for name, layout in LAYOUTS.items()} | {
        "flowers-102": "Flowers102",
        "stanford_cars": "StanfordCars",
    }
    if path.name in folders and path.is_dir():
        return folders[path.name]
    found = [name for folder, name in folders.items() if (path / folder).is_dir()]
    if any((path / f"train{year}.json").is_file() for year in ("2018", "2019")):
        found.append("INaturalist")
    return found[0] if len(found) == 1 else None


def list_vision_set(root: Path, name: str, split: str | None = None) -> Listing:
    """List the images of one of torchvision's datasets, as it orders and numbers them.

    CIFAR's pickles and iNaturalist's JSON files are read here, all else by torchvision. `root` is
    the argument of the class, whose name may be in any case; nothing is downloaded. `split` is
    train, val or test, or a word of the class's own; train if none is given. What is not split is
    taken whole. Flowers-102 has trainval too, which DeiT is fine-tuned on. Raises UserError for no
    such dataset or split, or files that are missing or broken.
    """
    own = {plain(each): each for each in LAYOUTS}
    if plain(name) in own:
        return list_cifar(root, own[plain(name)], split)
    name = find_class(name)
    if name == "INaturalist" and find_year(root):
        return list_inaturalist(root, split)
    parts = JOINED.get(name, {}).get(split or "", (split,))
    opened = [open_split(name, root, part) for part in parts]
    vision_set, dataset = opened[0]
    if not len(dataset):
        raise UserError(f"{name} must hold images. Found: none in {root}. Unpack it there.")
    files: list[str] = []
    labels: list[int] = []
    for _, each in opened:
        found = find_files(each)
        if found is None:
            return _list_pixels(vision_set, split)
        files += found[0]
        labels += found[1]
    base = Path(vision_set.root)
    names = [Path(os.path.relpath(file, base)).as_posix() for file in files]
    order = list(range(len(names)))
    if name in UNORDERED:
        order.sort(key=names.__getitem__)
    numbers = np.array([labels[number] for number in order], np.int64)
    class_ids, class_names = _name_classes(name, dataset, numbers)
    ordered = Names.of(names[number] for number in order)
    return list_held_files(base, name, ordered, numbers, class_ids, class_names)


def find_files(dataset: Any) -> tuple[list[str], list[int]] | None:
    """The path and label of each image; None if the images are no files.

    The dataset was opened with `loader=str` if its class takes a loader: its items are then paths.
    Other classes keep them in attributes, or open them as they are. Raises UserError if a label is
    no class number.
    """
    pairs: Any = None
    if isinstance(getattr(dataset, "loader", None), type) or hasattr(dataset, "_loader"):
        pairs = (dataset[number] for number in range(len(dataset)))
    elif hasattr(dataset, "_samples"):
        pairs = iter(dataset._samples)
    elif hasattr(dataset, "_images") and hasattr(dataset, "_labels"):
        pairs = zip(dataset._images, dataset._labels, strict=True)
    elif getattr(item_of(dataset, 0)[0], "filename", ""):
        items = (item_of(dataset, number) for number in range(len(dataset)))
        pairs = ((getattr(image, "filename", None), label) for image, label in items)
    files: list[str] = []
    labels: list[int] = []
    for path, label in pairs or ():
        if not isinstance(path, str | Path) or not str(path):
            return None
        files.append(str(path))
        labels.append(_label_of(dataset, label))
    return (files, labels) if files else None


def _label_of(dataset: Any, label: Any) -> int:
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if number < 0:
        raise UserError(
            f"every image must have one class, numbered from 0. Found: {label!s:.40} in "
            f"{type(dataset).__name__}. Choose a split with labels, or a dataset of classes."
        )
    return number


def _list_pixels(vision_set: VisionSet, split: str | None) -> Listing:
    """List a dataset whose images are pixels: an array, or whatever its items give."""
    name = vision_set.name
    dataset = vision_set.open()
    labels = _find_labels(dataset)
    first = rgb_of(dataset, 0)
    requests: Requests | None = _find_array(dataset)
    if requests is None:
        requests = VisionItems(vision_set, len(dataset))
    names = Names.of(f"{split or 'train'}/{number:06d}" for number in range(len(dataset)))
    # Exact for arrays, whose images are of one size; else the first stands for all.
    sizes = np.full(len(dataset), first.size, np.int64)
    class_ids, class_names = _name_classes(name, dataset, labels)
    return Listing(
        path=Path(vision_set.root),
        kind=name,
        names=names,
        labels=labels,
        sizes=sizes,
        class_ids=class_ids,
        class_names=class_names,
        requests=requests,
        fingerprint=fingerprint_of(names, sizes, labels),
    )


class VisionItems:
    """A request for each item of a dataset."""

    def __init__(self, vision_set: VisionSet, length: int) -> None:
        self.vision_set, self.length = vision_set, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> VisionItem:
        return VisionItem(self.vision_set, range(self.length)[number])


def item_of(dataset: Any, number: int) -> tuple[Any, Any]:
    """The image and the label of an item."""
    try:
        image, label = dataset[number]
        image.convert  # noqa: B018
    except Exception as error:  # torchvision's classes raise whatever reading raises
        raise _no_item(dataset, number, error) from error
    return image, label


def rgb_of(dataset: Any, number: int) -> NDArray[np.uint8]:
    """The pixels of an item."""
    image, _ = item_of(dataset, number)
    try:
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise _no_item(dataset, number, error) from error


def _no_item(dataset: Any, number: int, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"a dataset must give images and classes. Found: {type(error).__name__}: {reason} at item "
        f"{number} of {type(dataset).__name__}. Unpack it again, or choose one for classification."
    )


def _probes(dataset: Any) -> list[int]:
    """A few items, from the first to the last, on which a short cut is held to the long way."""
    return sorted(set(np.linspace(0, len(dataset) - 1, NUM_PROBES).astype(int).tolist()))


def _find_labels(dataset: Any) -> NDArray[np.int64]:
    """(N,) the labels: from an attribute that agrees with the items, else item by item."""
    expected = {
        number: _label_of(dataset, item_of(dataset, number)[1]) for number in _probes(dataset)
    }
    for attribute in ("targets", "labels", "_labels", "y"):
        labels = np.asarray(getattr(dataset, attribute, ()))
        is_plain = labels.shape == (len(dataset),) and labels.dtype.kind in "iu"
        if is_plain and all(labels[number] == label for number, label in expected.items()):
            _label_of(dataset, labels.min())
            return labels.astype(np.int64)
    count = len(dataset)
    items = (_label_of(dataset, item_of(dataset, number)[1]) for number in range(count))
    return np.fromiter(items, np.int64, count)


def _find_array(dataset: Any) -> PixelImages | None:
    """The images of a dataset's array, if it has one that agrees with its items."""
    try:
        images = PixelImages(np.asarray(getattr(dataset, "data", None)))
    except ValueError:
        return None
    agree = len(images) == len(dataset) and all(
        np.array_equal(images[number].read(), rgb_of(dataset, number))
        for number in _probes(dataset)
    )
    return images if agree else None


def _name_classes(
    name: str, dataset: Any, labels: NDArray[np.int64]
) -> tuple[list[str], list[str]]:
    """Identifiers and words for each class, numbers where the dataset has none."""
    words: Any = ()
    for attribute in ("classes", "categories", "all_categories"):
        words = words or getattr(dataset, attribute, ())
    words = [" ".join(each) if isinstance(each, tuple) else str(each) for each in words]
    count = max(int(labels.max()) + 1, len(words))
    if len(words) < count:
        words = [str(number) for number in range(count)]
    ids = [str(each) for each in getattr(dataset, "wnids", ())]
    if name == "INaturalist":
        ids = [Path(word).name for word in words]
    return (ids if len(ids) == count else [str(number) for number in range(count)]), words
