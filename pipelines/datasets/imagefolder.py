"""ImageFolder: one folder a class, read in place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.cache import cached_columns, state_of
from fastdeit.pipelines.datasets.index import DatasetIndex, index_from_columns, sample_key
from fastdeit.pipelines.datasets.jpeg_head import HEAD_BYTES, read_jpeg_head
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.pictures import PictureError, open_picture
from fastdeit.pipelines.datasets.strays import Strays, is_hidden_folder
from fastdeit.pipelines.datasets.urls import refuse_url
from fastdeit.pipelines.datasets.walk import EXTENSIONS, walk_images

SYNSET_MAPPING = "LOC_synset_mapping.txt"
# ImageNet's val images without folders (as from Kaggle), and what cannot be read in any order.
_ONLY_CONVERTED = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG|[^.].*\.(?:parquet|tar\.gz|tgz)")


class ImageFolder(NamedTuple):
    """N images in the sorted order of their names."""

    class_ids: list[str]
    names: Names
    """Path of each below the folder."""
    labels: NDArray[np.int64]
    """(N,) class numbers from 0."""
    sizes: NDArray[np.int64]
    """(N,) bytes."""
    times: NDArray[np.int64]
    """(N,) nanoseconds of the last change."""
    strays: Strays
    """What else lies in the folders of the classes."""


def list_imagefolder(path: Path) -> ImageFolder:
    """List the classes and images below a folder, with images at any depth; links are followed.

    Classes are numbered as torchvision.datasets.ImageFolder does; but folders that are called 0 to
    K - 1, as in ImageNet-V2, are numbered so and not in the order of their letters. Hidden folders
    are no classes and hold no images; that they are left out is said.

    Raises:
        UserError: there is no class folder, or one of them holds no image.
    """
    refuse_url(path)
    if not path.is_dir():
        raise UserError(
            f"source must be a folder with one folder a class. Found: {path}"
            f"{'' if path.exists() else ', which does not exist'}. "
            "Give ImageNet's train folder, say."
        )
    strays = Strays()
    folders = _class_folders(path, strays)
    lost = [entry for entry in path.iterdir() if entry.is_symlink() and not entry.exists()]
    if lost:
        raise UserError(
            f"every class folder must be there, or the others get other numbers. Found: {lost[0]}, "
            f"a link to {lost[0].readlink()}, where nothing is. Mend or remove the link."
        )
    if not folders:
        raise UserError(
            f"source must hold one folder a class. Found: none in {path}. "
            "Give the folder that holds n01440764 and the others."
        )
    if set(folders) <= {"train", "val", "test"}:
        raise UserError(
            f"source must be one split, with one folder a class. Found: {', '.join(folders)} in "
            f"{path}. Give {path / folders[0]}."
        )
    numbers = {folder: number for number, folder in enumerate(folders)}
    if set(folders) == set(map(str, range(len(folders)))):
        numbers = {folder: int(folder) for folder in folders}
    labels, sizes, times = bytearray(), bytearray(), bytearray()

    def names() -> Iterator[str]:
        for folder in folders:
            count = len(labels)
            for name, size, time in sorted(walk_images(path, folder, strays)):
                if not name.isprintable():  # bytes that are no UTF-8 arrive as lone surrogates
                    raise UserError(
                        f"names must be printable UTF-8. Found: {name!a} in {path}. Rename it."
                    )
                labels.extend(numbers[folder].to_bytes(8, "little"))
                sizes.extend(size.to_bytes(8, "little"))
                times.extend(time.to_bytes(8, "little", signed=True))
                yield name
            if len(labels) == count:
                raise UserError(
                    f"every class folder must hold an image. Found: none in {path / folder}. "
                    "Remove the empty folder or give the folder above or below it."
                )

    found = Names.of(names())
    class_ids = sorted(folders, key=numbers.__getitem__)
    mapping = _read_synset_mapping(path)
    if class_ids == list(map(str, range(len(mapping)))):
        class_ids = sorted(mapping)  # numbers stand for the sorted WordNet ids
    strays.say_hidden(path)
    return ImageFolder(
        class_ids,
        found,
        np.frombuffer(labels, np.int64),
        np.frombuffer(sizes, np.int64),
        np.frombuffer(times, np.int64),
        strays,
    )


def _class_folders(path: Path, strays: Strays) -> list[str]:
    """The names of the class folders, sorted."""
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    for folder in filter(is_hidden_folder, folders):
        strays.hidden.add(folder)
    for entry in path.iterdir():  # of images only: beside the folders lie texts of all kinds
        if entry.suffix.lower() in EXTENSIONS and not (entry.name[0] == "." or entry.is_dir()):
            strays.not_images.add(entry.name)
    return [folder for folder in folders if not is_hidden_folder(folder)]


def _read_synset_mapping(path: Path) -> dict[str, str]:
    """Words by WordNet id from LOC_synset_mapping.txt in or above a folder; {} without it."""
    for folder in (path, path.parent):
        mapping = folder / SYNSET_MAPPING
        if mapping.is_file():
            try:
                lines = mapping.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"the words of classes must be UTF-8. Found: {error} in {mapping}. Download it "
                    "again, or remove it."
                ) from error
            return dict(line.split(" ", 1) for line in lines if " " in line)
    return {}


def read_class_names(path: Path, class_ids: list[str]) -> list[str]:
    """Words for each class from LOC_synset_mapping.txt in or above the folder, else the ids."""
    words = _read_synset_mapping(path)
    return [words.get(class_id, class_id) for class_id in class_ids]


def open_imagefolder(path: Path) -> DatasetIndex:
    """Open an ImageFolder; the head of every file is read for its size, once (see `cache`).

    Raises UserError if there are no classes, or a file is no image.
    """
    _refuse_unconverted(path)
    class_ids, names, labels, sizes, *_ = list_imagefolder(path)
    files = [path / name for name in names]

    def make() -> dict[str, Any]:
        pixels = np.array([_known_size(file) for file in files], dtype=np.int32)
        return {
            "file_ids": np.arange(len(names), dtype=np.int32),
            "offsets": np.zeros(len(names), dtype=np.int64),
            "sizes": sizes,
            "modes": np.zeros(len(names), dtype=np.uint8),
            "labels": labels,
            "widths": pixels[:, 0].copy(),
            "heights": pixels[:, 1].copy(),
            "keys": np.array([sample_key(name) for name in names], dtype=np.uint64),
            "names": names,
        }

    _, columns = cached_columns(path, state_of(files), lambda: ({}, make()))
    meta = {"class_ids": class_ids, "class_names": read_class_names(path, class_ids)}
    return index_from_columns(path, "imagefolder", tuple(files), meta, columns)


def _refuse_unconverted(path: Path) -> None:
    """Raise a UserError for a folder without folders that `fastdeit convert` could read."""
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    found = next((name for name in names if _ONLY_CONVERTED.fullmatch(name)), None)
    if found and not any((path / name).is_dir() for name in names if not is_hidden_folder(name)):
        raise UserError(
            "a dataset that is read in place must be a .beton, a folder of shards (*.tar) or one "
            f"folder a class. Found: {found} in {path}. `fastdeit convert {path} OUT` reads it and "
            "makes one."
        )


def _known_size(path: Path) -> tuple[int, int]:
    try:
        return read_size(path)
    except (PictureError, OSError) as error:
        size, reason = path.lstat().st_size, getattr(error, "strerror", None) or error
        raise UserError(
            f"every file must be an image. Found: {path} ({size} bytes: {reason}). "
            "Remove it, or convert the folder with --bad skip."
        ) from error


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, from its head; PictureError if it is none."""
    with path.open("rb") as file:
        head = read_jpeg_head(file.read(HEAD_BYTES), is_whole=False)
    if head is not None:
        return head.width, head.height
    with open_picture(path) as image:
        return image.size
