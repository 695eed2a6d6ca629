"""ImageNet as it is downloaded: the archives of ILSVRC 2012, read in place.

ILSVRC2012_img_train.tar is a tar of one tar a class, ILSVRC2012_img_val.tar a flat tar whose labels
are elsewhere (`ground_truth`); those of the Hugging Face Hub are flat, and their names tell the
class (`hub_archives`). Nothing is unpacked to the disk; archives may be packed by gzip.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.foreign import natural_order
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.tar_bytes import GZIP_ENDINGS, GzipBytes, TarBytes, open_tar
from fastdeit.pipelines.datasets.tars import TarMember, members_of, visible_members
from fastdeit.tools.data.sources.ground_truth import (
    GroundTruth,
    read_ground_truth,
    read_words,
    words_of_classes,
)
from fastdeit.tools.data.sources.hub_archives import list_hub, split_of_hub
from fastdeit.tools.data.sources.listing import FileRanges, Listing, fingerprint_of, times_of
from fastdeit.tools.data.sources.packed import ranges_in

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
    chosen = [each for each in found if split in (None, each.split)]
    there = ", ".join(f"{each.file.name} ({each.split})" for each in found)
    if not chosen:
        if path.is_file():
            _check_first_member(path)
        raise UserError(
            f"source must hold the {f'{split} ' if split else ''}images of ILSVRC 2012: a tar of "
            "n01440764.tar and so on (train), or of ILSVRC2012_val_00000001.JPEG and so on (val). "
            f"Found: {there or 'neither'}, at {path}. Give ILSVRC2012_img_train.tar or "
            "ILSVRC2012_img_val.tar."
        )
    splits = {each.split for each in chosen}
    if len(splits) == 1 and all(each.is_hub for each in chosen):
        for file in _tars_at(path):
            _check_first_member(file)  # a damaged one tells no split, and must not be left out
        return list_hub(path, [each.file for each in chosen], devkit)
    if len(chosen) > 1:
        way_out = "Choose train or val" if len(splits) == 2 else "Give one"
        raise UserError(f"source must be one archive. Found: {there}, in {path}. {way_out}.")
    (archive,) = chosen
    listed = _list_train if archive.split == "train" else _list_val
    with closing(open_tar(archive.file)) as data:
        listing = listed(archive.file, data, devkit)
        if isinstance(data, GzipBytes):
            data.check_rest()
    return listing


def list_flat_val(folder: Path, devkit: Path | None = None) -> Listing:
    """List the images of val from the folder they were unpacked into, without class folders."""
    with os.scandir(folder) as entries:
        images = sorted(
            (entry.name, (found := entry.stat()).st_size, found.st_mtime_ns)
            for entry in entries
            if VAL_IMAGE.fullmatch(entry.name) and entry.is_file()
        )
    truth = read_ground_truth(devkit, folder)
    files = Names.of(name for name, *_ in images)
    sizes, times = np.array([facts for _, *facts in images], dtype=np.int64).T.copy()
    numbers = np.arange(len(images))
    requests = FileRanges(files, numbers, np.zeros_like(numbers), sizes, str(folder))
    return _val_listing(folder, [name for name, *_ in images], truth, requests, times)


class Archive(NamedTuple):
    """An archive of ILSVRC, seen from its first members."""

    file: Path
    split: str
    """train or val."""
    is_hub: bool


def _look_into(path: Path) -> Archive | None:
    """What archive a file is; None if it is none."""
    try:
        with closing(open_tar(path)) as data:
            first = next(visible_members(Strays(), data, str(path)), None)
            if first is None:
                return None
            if CLASS_TAR.fullmatch(first.name):
                return Archive(path, "train", False)
            if VAL_IMAGE.fullmatch(first.name):
                return Archive(path, "val", False)
            split = split_of_hub(data, str(path))
            return Archive(path, split, True) if split else None
    except UserError:
        return None


def _check_first_member(path: Path) -> None:
    """Raise a UserError if a file is no tar, packed or not, by its first header."""
    with closing(open_tar(path)) as data:
        next(members_of(data, str(path)), None)


def _tars_at(path: Path) -> list[Path]:
    """The file at a path, or the tars in the folder there; _10 comes after _9."""
    files = [path]
    if path.is_dir():
        packed_too = (".tar", *GZIP_ENDINGS)
        files = [file for file in path.glob("[!.]*") if file.name.endswith(packed_too)]
    return sorted((file for file in files if file.is_file()), key=natural_order)


def _find_archives(path: Path) -> list[Archive]:
    """The archives of ILSVRC that a path is, or that lie in it."""
    return [found for found in map(_look_into, _tars_at(path)) if found]


def _is_flat_val(path: Path) -> bool:
    """Whether images of val lie in a folder itself."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return any(VAL_IMAGE.fullmatch(entry.name) for entry in entries)


def _list_train(path: Path, data: TarBytes, devkit: Path | None) -> Listing:
    offsets, sizes, positions = array("q"), array("q"), array("q")
    found: dict[str, int] = {}
    strays = Strays()

    def names() -> Iterator[str]:
        for class_tar in visible_members(strays, data, str(path)):
            wnid = _class_of(class_tar, path, found)
            found[wnid] = len(found)
            for name, member in _images_of(class_tar, wnid, path, data, strays):
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
    requests = ranges_in([path], file_ids, np.frombuffer(offsets, np.int64), all_sizes)
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
        requests=requests,
        fingerprint=fingerprint_of(all_names, all_sizes, labels),
        times=times_of([path], file_ids),
        is_sequential=requests.is_sequential,
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
    class_tar: TarMember, wnid: str, path: Path, data: TarBytes, strays: Strays
) -> Iterator[tuple[str, TarMember]]:
    """(file's name, where it is) of each image of a class."""
    start, names = class_tar.offset, set()
    label = f"{class_tar.name} in {path}"
    for member in visible_members(strays, data, label, start, start + class_tar.size):
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


def _list_val(path: Path, data: TarBytes, devkit: Path | None) -> Listing:
    strays = Strays()
    members = list(visible_members(strays, data, str(path)))
    strays.say_hidden(path)
    for member in members:
        if not VAL_IMAGE.fullmatch(member.name):
            raise UserError(
                "the val archive must hold ILSVRC2012_val_NUMBER.JPEG and nothing else. Found: "
                f"{member.name}, in {path}. Download it again."
            )
    offsets = np.array([member.offset for member in members], dtype=np.int64)
    sizes = np.array([member.size for member in members], dtype=np.int64)
    requests = ranges_in([path], np.zeros_like(offsets), offsets, sizes)
    names = [member.name.rpartition("/")[2] for member in members]
    times = times_of([path], requests.file_ids)
    return _val_listing(path, names, read_ground_truth(devkit, path.parent), requests, times)


def _val_listing(
    path: Path,
    files: list[str],
    truth: GroundTruth,
    requests: FileRanges,
    times: NDArray[np.int64],
) -> Listing:
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
        times=times,
        is_sequential=requests.is_sequential,
    )
