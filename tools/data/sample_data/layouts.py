"""How the sample data lies on disk: a folder per class, or the archives of ILSVRC 2012.

A layout takes the pictures in the order of `plan_pictures` and writes them under one folder.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastdeit.tools.data.sample_data.classes import CLASSES, GROUPS
from fastdeit.tools.data.sample_data.photos import make_rng
from fastdeit.tools.data.sample_data.scenes import Picture, find_oddity

DEVKIT = "ILSVRC2012_devkit_t12"
VAL_ORDER_STREAM = 10


@dataclass(frozen=True)
class NamedPicture:
    """A picture and the name of its file."""

    picture: Picture
    name: str
    """The file's name as ImageNet would spell it, without a folder."""

    @property
    def wnid(self) -> str:
        """The identifier of its class."""
        return CLASSES[self.picture.class_id].wnid

    @property
    def path(self) -> str:
        """Where it lies in the layout `folder`."""
        return f"{self.picture.split}/{self.wnid}/{self.name}"


def _class_share(num_images: int, class_id: int) -> int:
    """Say how many of `num_images` belong to a class: all shares are equal, give or take one."""
    return num_images // len(CLASSES) + (class_id < num_images % len(CLASSES))


def plan_pictures(seed: int, num_train: int, num_val: int, has_broken: bool) -> list[NamedPicture]:
    """List all pictures in the order they are written: train by class, then val by number.

    The seed decides the order of val; `has_broken` whether train has files that cannot be decoded.
    """
    plan = []
    for class_id in sorted(range(len(CLASSES)), key=lambda class_id: CLASSES[class_id].wnid):
        for index in range(_class_share(num_train, class_id)):
            oddity = find_oddity("train", class_id, index, has_broken)
            picture = Picture("train", class_id, index, oddity)
            plan.append(NamedPicture(picture, f"{CLASSES[class_id].wnid}_{index}.JPEG"))
    places = [(c, index) for c in range(len(CLASSES)) for index in range(_class_share(num_val, c))]
    order = make_rng(seed, VAL_ORDER_STREAM, 0, 0).permutation(num_val)
    for number, place in enumerate(order, start=1):
        class_id, index = places[place]
        picture = Picture("val", class_id, index, find_oddity("val", class_id, index, has_broken))
        plan.append(NamedPicture(picture, f"ILSVRC2012_val_{number:08d}.JPEG"))
    return plan


class Layout(ABC):
    """Writes pictures under one folder."""

    def __init__(self, root: Path, plan: list[NamedPicture]) -> None:
        self.root = root
        self.plan = plan

    @abstractmethod
    def add(self, named: NamedPicture, data: bytes) -> None:
        """Write one picture; they come in the order of the plan."""

    def finish(self) -> None:
        """Write the list of class names, which both layouts have, and close what is open."""
        lines = sorted(f"{one.wnid} {one.words}\n" for one in CLASSES)
        (self.root / "LOC_synset_mapping.txt").write_text("".join(lines), encoding="ascii")


class FolderLayout(Layout):
    """`train/<wnid>/<file>` and `val/<wnid>/<file>`."""

    def __init__(self, root: Path, plan: list[NamedPicture]) -> None:
        super().__init__(root, plan)
        for folder in {(root / named.path).parent for named in plan}:
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, named: NamedPicture, data: bytes) -> None:
        """Write one picture."""
        (self.root / named.path).write_bytes(data)


class IlsvrcLayout(Layout):
    """The three archives of ILSVRC 2012: train (a tar of one tar a class), val, development kit."""

    def __init__(self, root: Path, plan: list[NamedPicture]) -> None:
        super().__init__(root, plan)
        self._wnid = ""
        self._class_file = io.BytesIO()
        self._train = tarfile.open(root / "ILSVRC2012_img_train.tar", "w")
        self._val = tarfile.open(root / "ILSVRC2012_img_val.tar", "w")
        self._class: tarfile.TarFile | None = None

    def add(self, named: NamedPicture, data: bytes) -> None:
        """Append one picture to its archive."""
        if named.picture.split == "val":
            _add_member(self._val, named.name, data)
            return
        if named.wnid != self._wnid or self._class is None:
            self._close_class()
            self._wnid, self._class_file = named.wnid, io.BytesIO()
            self._class = tarfile.open(fileobj=self._class_file, mode="w")
        _add_member(self._class, named.name, data)

    def _close_class(self) -> None:
        if self._class is not None:
            self._class.close()
            _add_member(self._train, f"{self._wnid}.tar", self._class_file.getvalue())

    def _num_train(self) -> list[int]:
        ids = [one.picture.class_id for one in self.plan if one.picture.split == "train"]
        return [ids.count(class_id) for class_id in range(len(CLASSES))]

    def finish(self) -> None:
        """Close the archives and write the development kit."""
        super().finish()
        self._close_class()
        self._train.close()
        self._val.close()
        labels = [one.picture.class_id + 1 for one in self.plan if one.picture.split == "val"]
        truth = "".join(f"{label}\n" for label in labels)
        with (self.root / f"{DEVKIT}.tar.gz").open("wb") as file:
            _write_devkit(file, truth.encode("ascii"), _make_meta(self._num_train()))


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file whose header holds nothing of this machine or this moment."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _write_devkit(file: IO[bytes], truth: bytes, meta: bytes) -> None:
    """Write the development kit: labels of val by number, and the table of classes."""
    with (
        # Without mtime=0 the time of writing would be part of the file.
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        _add_member(archive, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", truth)
        _add_member(archive, f"{DEVKIT}/data/meta.mat", meta)


def _make_meta(num_train: list[int]) -> bytes:
    """Make meta.mat: a struct array `synsets`, the classes first, then the nodes above them."""
    from scipy.io import savemat

    of_photos = [i for i, one in enumerate(CLASSES, start=1) if one.photos]
    of_objects = [i for i, one in enumerate(CLASSES, start=1) if one.shape]
    # As in the real one, ILSVRC2012_ID counts from 1 in an order of its own, and a reader must skip
    # the nodes that have children.
    rows: list[tuple[Any, ...]] = [
        (i, one.wnid, one.words, one.gloss, []) for i, one in enumerate(CLASSES, start=1)
    ]
    for group, children in zip(GROUPS, (of_photos, of_objects), strict=True):
        rows.append((len(rows) + 1, *group, children))
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.zeros((len(rows), 1), dtype=[(name, object) for name in names])
    for row, (number, wnid, words, gloss, children) in enumerate(rows):
        num_images = 0 if children else num_train[row]
        synsets[row, 0] = (
            float(number),
            wnid,
            words,
            gloss,
            float(len(children)),
            np.array([children], dtype=np.float64),
            float(bool(children)),
            float(num_images),
        )
    file = io.BytesIO()
    savemat(file, {"synsets": synsets})
    # The format's first 116 bytes are a free text; scipy puts the time of writing there.
    text = b"MATLAB 5.0 MAT-file, fastdeit sample data"
    return text.ljust(116) + file.getvalue()[116:]


LAYOUTS: dict[str, type[Layout]] = {"folder": FolderLayout, "ilsvrc": IlsvrcLayout}
