"""ImageFolder: one folder a class, read in place."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastdeit import UserError
from fastdeit.pipelines.index import DatasetIndex, sample_key

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))
SYNSET_MAPPING = "LOC_synset_mapping.txt"


def list_imagefolder(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """List the classes and images below a folder.

    Args:
        path: one folder for each class, images at any depth below it.

    Returns:
        (class ids in sorted order, (path below `path`, class number) of each image in sorted
        order), as torchvision.datasets.ImageFolder numbers them.

    Raises:
        UserError: there is no class folder, or one of them holds no image.
    """
    if not path.is_dir():
        raise UserError(
            f"source must be a folder with one folder a class. Found: {path}"
            f"{'' if path.exists() else ', which does not exist'}. "
            "Give ImageNet's train folder, say."
        )
    class_ids = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    if not class_ids:
        raise UserError(
            f"source must hold one folder a class. Found: none in {path}. "
            "Give the folder that holds n01440764 and the others."
        )
    if set(class_ids) <= {"train", "val", "test"}:
        raise UserError(
            f"source must be one split, with one folder a class. Found: {', '.join(class_ids)} in "
            f"{path}. Give {path / class_ids[0]}."
        )
    images: list[tuple[str, int]] = []
    for number, class_id in enumerate(class_ids):
        found = sorted(
            file.relative_to(path).as_posix()
            for file in (path / class_id).rglob("*")
            if file.suffix.lower() in EXTENSIONS and file.is_file()
        )
        if not found:
            raise UserError(
                f"every class folder must hold an image. Found: none in {path / class_id}. "
                "Remove the empty folder or give the folder above or below it."
            )
        for name in found:
            if not name.isprintable():  # bytes that are no UTF-8 arrive as lone surrogates
                raise UserError(
                    f"names must be printable UTF-8. Found: {name!a} in {path}. Rename it."
                )
        images.extend((name, number) for name in found)
    return class_ids, images


def read_class_names(path: Path, class_ids: list[str]) -> list[str]:
    """Words for each class from LOC_synset_mapping.txt in or above the folder, else the ids."""
    for folder in (path, path.parent):
        mapping = folder / SYNSET_MAPPING
        if mapping.is_file():
            lines = mapping.read_text(encoding="utf-8").splitlines()
            words = dict(line.split(" ", 1) for line in lines if " " in line)
            return [words.get(class_id, class_id) for class_id in class_ids]
    return class_ids


def open_imagefolder(path: Path) -> DatasetIndex:
    """Open an ImageFolder; the head of every file is read for its size.

    Raises:
        UserError: there are no classes, or a file is no image.
    """
    class_ids, images = list_imagefolder(path)
    sizes = np.zeros((len(images), 3), dtype=np.int64)
    for number, (name, _) in enumerate(images):
        file = path / name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a huge image is only measured here
                with Image.open(file) as image:
                    sizes[number] = (*image.size, file.stat().st_size)
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(
                f"every file must be an image. Found: {file} ({file.stat().st_size} bytes). "
                "Remove it, or convert the folder with --bad skip."
            ) from error
    return DatasetIndex(
        path=path,
        container="imagefolder",
        files=tuple(path / name for name, _ in images),
        file_ids=np.arange(len(images), dtype=np.int32),
        offsets=np.zeros(len(images), dtype=np.int64),
        sizes=sizes[:, 2],
        modes=np.zeros(len(images), dtype=np.uint8),
        labels=np.array([label for _, label in images], dtype=np.int64),
        widths=sizes[:, 0].astype(np.int32),
        heights=sizes[:, 1].astype(np.int32),
        keys=np.array([sample_key(name) for name, _ in images], dtype=np.uint64),
        names=np.array([name.encode() for name, _ in images]),
        class_ids=tuple(class_ids),
        class_names=tuple(read_class_names(path, class_ids)),
    )
