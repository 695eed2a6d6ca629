"""Labels of ILSVRC 2012's val images: from the development kit, or from Kaggle's table."""

from __future__ import annotations

import csv
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastdeit import UserError
from fastdeit.pipelines.datasets.imagefolder import read_class_names
from fastdeit.tools.data.sources.mat_file import read_struct_array

KIT = "ILSVRC2012_devkit_t12"
META = "data/meta.mat"
NUMBERS = "data/ILSVRC2012_validation_ground_truth.txt"
KAGGLE_TABLE = "LOC_val_solution.csv"
# Kaggle's val images lie four folders below its table: ILSVRC/Data/CLS-LOC/val.
LEVELS_UP = 4
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class GroundTruth:
    """The class of every val image."""

    path: Path
    wnids: list[str]
    """WordNet id of each image, in the order of their numbers, which count from 1."""
    class_ids: list[str]
    """All WordNet ids, sorted, as ImageFolder numbers the classes of train."""
    words: dict[str, str] = field(default_factory=dict)
    """Words for a WordNet id, if it says them."""


def read_ground_truth(devkit: Path | None, folder: Path) -> GroundTruth:
    """Read the labels of val.

    `devkit` is the development kit, packed or unpacked, or Kaggle's table; None looks for them in
    the folder of the images and above. Raises UserError if there are none, or they are damaged.
    """
    path = _find_devkit(devkit, folder)
    if path is None:
        raise UserError(
            "the val images of ILSVRC 2012 need their labels, which are not in the archive. Found: "
            f"neither {KIT}.tar.gz nor {KAGGLE_TABLE} in {folder} or above. Download the "
            "development kit (tasks 1 and 2) from image-net.org and put it there."
        )
    return _read_kaggle(path) if path.suffix == ".csv" else _read_kit(path)


def _find_devkit(devkit: Path | None, folder: Path) -> Path | None:
    """The file or folder that says the labels of val; None if there is none."""
    if devkit is not None:
        if not devkit.exists():
            raise UserError(
                f"the development kit must exist. Found: nothing at {devkit}. "
                f"Give {KIT}.tar.gz, or the folder it was unpacked into."
            )
        return devkit
    for above in _upwards(folder):
        for name in (f"{KIT}.tar.gz", f"{KIT}.tar", KIT, KAGGLE_TABLE):
            if (above / name).exists():
                return above / name
    return None


def words_of_classes(
    class_ids: list[str], folder: Path, read_others: Callable[[], dict[str, str]]
) -> list[str]:
    """Words for each class: from LOC_synset_mapping.txt, else from `read_others`, else the id."""
    for above in _upwards(folder):
        found = read_class_names(above, class_ids)
        if found != class_ids:
            return found
    words = read_others()
    return [words.get(class_id, class_id) for class_id in class_ids]


def read_words(devkit: Path | None, folder: Path) -> dict[str, str]:
    """Words for WordNet ids from the development kit; nothing where it cannot say them.

    Raises UserError if the development kit is damaged.
    """
    path = _find_devkit(devkit, folder)
    if path is None or path.suffix == ".csv":
        return {}
    return dict(_read_synsets(path).values())


def _upwards(folder: Path) -> Iterator[Path]:
    absolute = folder.absolute()
    yield from (absolute, *absolute.parents[:LEVELS_UP])


def _read_kit(path: Path) -> GroundTruth:
    synsets = _read_synsets(path)
    lines = _part(path, NUMBERS).decode("ascii", "replace").split()
    unknown = [line for line in lines if not line.isdecimal() or int(line) not in synsets]
    if unknown or not lines:
        raise UserError(
            f"{NUMBERS} must hold numbers of classes in {META}. Found: "
            f"{unknown[0] if unknown else 'nothing'} in {path}. Download it again."
        )
    return GroundTruth(
        path=path,
        wnids=[synsets[int(line)][0] for line in lines],
        class_ids=sorted(wnid for wnid, _ in synsets.values()),
        words=dict(synsets.values()),
    )


def _read_synsets(path: Path) -> dict[int, tuple[str, str]]:
    """(WordNet id, words) of each class by its ILSVRC2012_ID, from meta.mat."""
    data = _part(path, META)
    wanted = ("ILSVRC2012_ID", "WNID", "words", "num_children")
    try:
        # Source: torchvision 0.2x datasets/imagenet.py:parse_meta_mat, for which nodes are classes.
        synsets = {
            int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"]))
            for row in read_struct_array(data, "synsets", wanted)
            if int(row["num_children"]) == 0  # the nodes above them have numbers, but no images
        }
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{META} must be a table of synsets. Found: {error}, in {path}. Download the "
            "development kit again."
        ) from error
    if not all(re.fullmatch(r"n\d{8}", wnid) for wnid, _ in synsets.values()):
        raise UserError(
            f"{META} must name classes by WordNet ids. Found: others in {path}. "
            "Download the development kit again."
        )
    return synsets


def _part(path: Path, name: str) -> bytes:
    """One file of the development kit, by its path below the kit's top."""
    try:
        if path.is_dir():
            top = path / KIT if (path / KIT).is_dir() else path
            with (top / name).open("rb") as file:
                return _whole(file.read(MAX_BYTES + 1), path, name)
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isreg() and member.name.removeprefix("./") == f"{KIT}/{name}":
                    content = archive.extractfile(member)
                    assert content is not None
                    return _whole(content.read(MAX_BYTES + 1), path, name)
        problem = f"no {KIT}/{name}"
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        problem = f"{type(error).__name__}: {error}"
    raise UserError(
        f"the development kit must hold {name}. Found: {problem}, in {path}. "
        f"Download {KIT}.tar.gz again, or give the folder it was unpacked into."
    )


def _whole(data: bytes, path: Path, name: str) -> bytes:
    """The content of a file, unless it is too large to be what it says."""
    if len(data) > MAX_BYTES:
        raise UserError(
            f"{name} must have at most {MAX_BYTES >> 20} MiB. Found: more in {path}. "
            "Download the development kit again."
        )
    return data


def _read_kaggle(path: Path) -> GroundTruth:
    """Read Kaggle's table: ImageId, and a prediction that begins with the WordNet id."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.reader(file))[1:]
    wnids: dict[int, str] = {}
    for row in rows:
        image = re.fullmatch(r"ILSVRC2012_val_(\d{8})", row[0]) if len(row) == 2 else None
        wnid = re.match(r"n\d{8}(?= |$)", row[1]) if image else None
        if image is None or wnid is None:
            raise UserError(
                "rows must be ILSVRC2012_val_NUMBER,WNID and a box. "
                f"Found: {','.join(row)[:80]!a} in {path}. Download it again."
            )
        wnids[int(image[1])] = wnid[0]
    if not wnids or sorted(wnids) != list(range(1, len(rows) + 1)):
        raise UserError(
            f"the table must have one row for each image, numbered from 1. Found: {len(rows)} rows "
            f"for {len(wnids)} images in {path}. Download it again."
        )
    in_order = [wnids[number] for number in range(1, len(wnids) + 1)]
    return GroundTruth(path, in_order, sorted(set(in_order)))
