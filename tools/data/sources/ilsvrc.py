"""ImageNet as it is downloaded: the archives of ILSVRC 2012, read in place.

ILSVRC2012_img_train.tar is a tar of one tar a class, ILSVRC2012_img_val.tar a flat tar whose labels
are elsewhere (`ground_truth`). Nothing is unpacked.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.tars import TarMember, tar_members, visible_members
from fastdeit.tools.data.sources.ground_truth import (
    GroundTruth,
    read_ground_truth,
    read_words,
    words_of_classes,
)
from fastdeit.tools.data.sources.listing import FileRanges, Listing, fingerprint_of

CLASS_TAR = re.compile(r"(?:.*/)?(n\d{8})\.tar")
TRAIN_IMAGE = re.compile(r"(?:.*/)?((n\d{8})_\d+\.JPEG)")
VAL_IMAGE = re.compile(r"(?:.*/)?(ILSVRC2012_val_(\d{8})\.JPEG)")


def looks_like_ilsvrc(path: Path) -> bool:
    """Whether `list_ilsvrc` is for this path: an archive, or a folder with one or with val."""
    return bool(_find_archives(path)) or _is_flat_val(path)


def list_ilsvrc(path: Path, split: str | None = None, devkit: Path | None = None) -> Listing:
    """List the images of an archive of ILSVRC 2012.

    `path` is the train or the val archive under any name, a folder that holds them, or a folder
    with the images of val; `split` chooses where it holds both, and must fit otherwise. `devkit` is
    ILSVRC2012_devkit_t12.tar.gz, the folder it was unpacked into, or Kaggle's LOC_val_solution.csv;
    None looks for them beside the archive and above. Raises UserError if there is no such archive,
    it is damaged, or val has no labels.
    """
    if split not in (None, "train", "val"):
        raise UserError(
            f"split must be train or val for ILSVRC 2012. Found: {split}. Its test has no labels."
        )
    found = _find_archives(path)
    if not found and split in (None, "val") and _is_flat_val(path):
        return list_flat_val(path, devkit)
    chosen = [(kind, file) for kind, file in found if split in (None, kind)]
    there = ", ".join(f"{file.name} ({kind})" for kind, file in found)
    if not chosen:
        if path.is_file():
            next(tar_members(path), None)  # says why it is no tar, if it is none
        raise UserError(
            f"source must hold the {f'{split} ' if split else ''}images of ILSVRC 2012: a tar of "
            "n01440764.tar and so on (train), or of ILSVRC2012_val_00000001.JPEG and so on (val). "
            f"Found: {there or 'neither'}, at {path}. Give ILSVRC2012_img_train.tar or "
            "ILSVRC2012_img_val.tar."
        )
    if len(chosen) > 1:
        way_out = "Choose train or val" if len({kind for kind, _ in chosen}) == 2 else "Give one"
        raise UserError(f"source must be one archive. Found: {there}, in {path}. {way_out}.")
    ((kind, file),) = chosen
    return _list_train(file, devkit) if kind == "train" else _list_val(file, devkit)


def list_flat_val(folder: Path, devkit: Path | None = None) -> Listing:
    """List the images of val from the folder they were unpacked into, without class folders."""
    with os.scandir(folder) as entries:
        images = sorted(
            (entry.name, entry.stat().st_size)
            for entry in entries
            if VAL_IMAGE.fullmatch(entry.name) and entry.is_file()
        )
    truth = read_ground_truth(devkit, folder)
    files = Names.of(name for name, _ in images)
    sizes = np.array([size for _, size in images], dtype=np.int64)
    numbers = np.arange(len(images))
    requests = FileRanges(files, numbers, np.zeros_like(numbers), sizes, str(folder))
    return _val_listing(folder, [name for name, _ in images], truth, requests)


def _kind_of(path: Path) -> str:
    """Train or val if a tar is one of the two archives, else an empty text."""
    try:
        first = next(visible_members(Strays(), path), None)
    except UserError:
        return ""
    if first is None:
        return ""
    if CLASS_TAR.fullmatch(first.name):
        return "train"
    return "val" if VAL_IMAGE.fullmatch(first.name) else ""


def _find_archives(path: Path) -> list[tuple[str, Path]]:
    """(train or val, file) of each archive of ILSVRC that is `path`, or lies in it."""
    files = sorted(path.glob("[!.]*.tar")) if path.is_dir() else [path]
    kinds = [(_kind_of(file), file) for file in files if file.is_file()]
    return [(kind, file) for kind, file in kinds if kind]


def _is_flat_val(path: Path) -> bool:
    """Whether images of val lie in a folder itself."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return any(VAL_IMAGE.fullmatch(entry.name) for entry in entries)


def _list_train(path: Path, devkit: Path | None) -> Listing:
    offsets, sizes, positions = array("q"), array("q"), array("q")
    found: dict[str, int] = {}
    strays = Strays()

    def names() -> Iterator[str]:
        for class_tar in visible_members(strays, path):
            wnid = _class_of(class_tar, path, found)
            found[wnid] = len(found)
            for name, member in _images_of(class_tar, wnid, path, strays):
                offsets.append(member.offset)
                sizes.append(member.size)
                positions.append(found[wnid])
                yield f"{wnid}/{name}"

    all_names = Names.of(names())
    strays.say_hidden(path)
    class_ids = sorted(found)
    numbers = {wnid: number for number, wnid in enumerate(class_ids)}
    by_position = np.array([numbers[wnid] for wnid in found], dtype=np.int64)
    labels = by_position[np.frombuffer(positions, dtype=np.int64)]
    all_sizes = np.frombuffer(sizes, dtype=np.int64)
    file_ids = np.zeros(len(labels), dtype=np.int64)
    return Listing(
        path=path,
        kind="ilsvrc",
        names=all_names,
        labels=labels,
        sizes=all_sizes,
        class_ids=class_ids,
        class_names=words_of_classes(
            class_ids, path.parent, lambda: read_words(devkit, path.parent)
        ),
        requests=FileRanges([str(path)], file_ids, np.frombuffer(offsets, np.int64), all_sizes),
        fingerprint=fingerprint_of(all_names, all_sizes, labels),
    )


def _class_of(class_tar: TarMember, path: Path, found: dict[str, int]) -> str:
    """The WordNet id that a member of the train archive stands for."""
    match = CLASS_TAR.fullmatch(class_tar.name)
    if match is None or match[1] in found:
        raise UserError(
            "the train archive must hold one tar a class, such as n01440764.tar. Found: "
            f"{class_tar.name}{' again' if match else ''}, in {path}. Download it again."
        )
    return match[1]


def _images_of(
    class_tar: TarMember, wnid: str, path: Path, strays: Strays
) -> Iterator[tuple[str, TarMember]]:
    """(file's name, where it is) of each image of a class."""
    start, names = class_tar.offset, set()
    label = f"{class_tar.name} in {path}"
    for member in visible_members(strays, path, start, start + class_tar.size, label):
        match = TRAIN_IMAGE.fullmatch(member.name)
        if match is None or match[2] != wnid or match[1] in names:
            raise UserError(
                f"a class must hold images that are named {wnid}_NUMBER.JPEG, each once. Found: "
                f"{member.name}, in {label}. Download it again."
            )
        names.add(match[1])
        yield match[1], member
    if not names:
        raise UserError(f"a class must hold an image. Found: none in {label}. Download it again.")


def _list_val(path: Path, devkit: Path | None) -> Listing:
    strays = Strays()
    members = list(visible_members(strays, path))
    strays.say_hidden(path)
    for member in members:
        if not VAL_IMAGE.fullmatch(member.name):
            raise UserError(
                "the val archive must hold ILSVRC2012_val_NUMBER.JPEG and nothing else. Found: "
                f"{member.name}, in {path}. Download it again."
            )
    offsets = np.array([member.offset for member in members], dtype=np.int64)
    sizes = np.array([member.size for member in members], dtype=np.int64)
    requests = FileRanges([str(path)], np.zeros_like(offsets), offsets, sizes)
    names = [member.name.rpartition("/")[2] for member in members]
    return _val_listing(path, names, read_ground_truth(devkit, path.parent), requests)


def _val_listing(path: Path, files: list[str], truth: GroundTruth, requests: FileRanges) -> Listing:
    image_numbers = [int(file[-13:-5]) for file in files]
    if sorted(image_numbers) != list(range(1, len(truth.wnids) + 1)):
        missing = set(range(1, len(truth.wnids) + 1)) - set(image_numbers)
        raise UserError(
            "val must hold each image that the ground truth is for, once. Found: "
            f"{len(files)} images in {path} for the {len(truth.wnids)} of {truth.path}"
            f"{f', without number {min(missing)}' if missing else ''}. "
            "Give the whole archive and the development kit that belongs to it."
        )
    wnids = [truth.wnids[number - 1] for number in image_numbers]
    numbers = {wnid: number for number, wnid in enumerate(truth.class_ids)}
    labels: NDArray[np.int64] = np.array([numbers[wnid] for wnid in wnids], dtype=np.int64)
    names = Names.of(f"{wnid}/{file}" for wnid, file in zip(wnids, files, strict=True))
    above = path if path.is_dir() else path.parent
    return Listing(
        path=path,
        kind="ilsvrc",
        names=names,
        labels=labels,
        sizes=requests.sizes,
        class_ids=truth.class_ids,
        class_names=words_of_classes(truth.class_ids, above, lambda: truth.words),
        requests=requests,
        fingerprint=fingerprint_of(names, requests.sizes, labels),
    )
