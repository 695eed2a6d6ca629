"""What a teacher said of every image that a run will show: written once, read by any student.

Randomness is keyed, so the augmented image of (epoch, sample, copy) is the same in every run with
the same settings. The store lies in the order of the epoch's stream (`Plan.stream`), which depends
on neither batch size nor number of processes; where images are mixed, both decide the partner, and
are part of what must be alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.checkpoints.classes import read_classes, require_classes
from fastdeit.config import DistillConfig, TrainConfig
from fastdeit.config.whole import jsonable
from fastdeit.errors import UserError
from fastdeit.files import LOCK, replace_file, replacing
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.plan.order import Plan
from fastdeit.pipelines.plan.sampling import images_by_class
from fastdeit.text.json_text import parse_json
from fastdeit.training.teacher import dense_probs

FORMAT = "fastdeit-labels-1"
ABOUT = "labels.json"
IN_WORDS = {
    "data.images": "images of other names (data.images)",
    "data.shapes": "the same images at other sizes (data.shapes)",
    "data.classes": "the same images in other classes (data.classes)",
}
"""What it means if a checksum among the settings differs."""
NOT_OF_THE_IMAGES = ("smoothing",)
"""Fields of the augmentation that change labels only."""


def _settings_of(config: TrainConfig, plan: Plan, index: DatasetIndex) -> dict[str, Any]:
    """What decides which images the teacher is shown, and what is kept of its answers."""
    augment = jsonable(dataclasses.asdict(config.augment))
    by_key = np.argsort(index.keys)  # positions differ between containers
    settings = {
        "data.num_images": len(index),
        "data.images": digest(index.keys[by_key]),
        "data.shapes": digest(index.widths[by_key], index.heights[by_key]),
        "data.median_bytes": int(np.median(index.sizes)),
        "data.image_size": plan.image_size,
        "data.repeats": plan.repeats,
        "data.crop": plan.crop,
        "data.crop_scale": list(plan.crop_scale),
        "data.crop_ratio": list(plan.crop_ratio),
        "data.interpolation": plan.interpolation,
        "run.seed": plan.seed,
        "run.compat": config.run.compat,
        **{f"augment.{n}": v for n, v in augment.items() if n not in NOT_OF_THE_IMAGES},
        "distill.distillation": config.distill.distillation,
    }
    if plan.sampling != "natural":
        settings["data.sampling"] = plan.sampling
        settings["data.classes"] = _digest_of_classes(index)
    if plan.crop == "center":
        settings["data.eval_crop_ratio"] = plan.eval_crop_ratio
    if config.distill.distillation == "soft":
        settings["distill.temperature"] = config.distill.temperature
        num_kept = min(config.distill.teacher_top_k, len(index.class_names))
        settings["distill.teacher_top_k"] = num_kept
    if config.augment.use_mixup or config.augment.use_cutmix or plan.order == "upstream":
        settings["data.batch_size"] = plan.batch_size
        settings["num_processes"] = plan.world_size
    return settings


def _digest_of_classes(index: DatasetIndex) -> str:
    """A checksum of which images are of one class, whatever its number."""
    classes = images_by_class(index.keys, index.labels)
    return digest(*(np.sort(index.keys[members]) for members in classes))


def digest(*columns: NDArray[Any]) -> str:
    """A short checksum of columns of whole numbers."""
    checksum = hashlib.sha256()
    for column in columns:
        checksum.update(column.astype("<u8").tobytes())
    return checksum.hexdigest()[:16]


def row_type(config: DistillConfig, num_classes: int) -> np.dtype[Any]:
    """How the answer for an image is stored: 2 bytes, or 4 for each kept class.

    Raises UserError if there are too many classes for 2 bytes, or all are to be kept.
    """
    if num_classes > np.iinfo(np.uint16).max + 1:
        raise UserError(
            f"a store of labels holds up to 65,536 classes. Found: {num_classes}. Train with "
            "--teacher instead."
        )
    if config.distillation == "hard":
        return np.dtype("<u2")
    if config.teacher_top_k == 0:
        raise UserError(
            "a store of soft labels keeps the likeliest classes. Found: teacher_top_k 0, which is "
            "all. Pass --teacher-top-k 10, say."
        )
    num = min(config.teacher_top_k, num_classes)
    return np.dtype([("classes", "<u2", (num,)), ("probs", "<f2", (num,))])


class LabelWriter:
    """Writes a store, epoch by epoch; one that was stopped goes on."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        plan: Plan,
        index: DatasetIndex,
        teacher: dict[str, Any],
    ) -> None:
        """Begin a store in a folder, or find the one that was begun with the same settings.

        `config` is that of the runs that will read it, `plan` of all processes together; `index`,
        the training set, has a class for each of the teacher's outputs; `teacher` says what it is,
        as plain types. Raises UserError if the folder holds something else, or a store with other
        settings.
        """
        self._folder, self._plan = folder, plan
        self._type = row_type(config.distill, len(index.class_names))
        about: dict[str, Any] = {
            "format": FORMAT,
            "settings": _settings_of(config, plan, index),
            "teacher": teacher,
            **index.classes.to_dict(),
            "num_rows": plan.epoch_samples,
            "epochs": {},
        }
        if (folder / ABOUT).exists():
            found = _read_about(folder)
            _check_settings(folder, found["settings"], about["settings"])
            if found["teacher"] != teacher:
                raise UserError(
                    f"a store is of one teacher. Found: {folder} of {found['teacher']}, and now "
                    f"{teacher}. Give another --out."
                )
            sides, way_out = (str(index.path), str(folder)), "Give another --out."
            rule = "a store goes on with the classes that it began with"
            located = require_classes(index.classes, read_classes(found), rule, sides, way_out)
            if not located.is_in_order:
                raise UserError(
                    f"a store keeps the order of its classes. Found: another in {sides[0]} than in "
                    f"{folder}. Give the set that it was begun with, or another --out."
                )
            about = found
        elif foreign := [f.name for f in folder.glob("*") if f.name != LOCK]:
            raise UserError(
                f"the folder of a store must be new, empty or a store. Found: {folder} with "
                f"{foreign[0]}. Give another --out."
            )
        self._about = about
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, epoch: int) -> bool:
        """Whether an epoch is complete; one that is missing or damaged is not."""
        expected, path = self._about["epochs"].get(str(epoch)), self._folder / _file_of(epoch)
        if expected is None or not path.is_file():
            return False
        return bool(hashlib.sha256(path.read_bytes()).hexdigest() == expected)

    def write(self, epoch: int, answers: NDArray[Any]) -> None:
        """Keep the answers of an epoch from 0; the file appears when it is complete.

        They are (steps x batch size,) of `row_type`, in the order of the stream.
        """
        data = np.ascontiguousarray(answers, dtype=self._type).tobytes()
        with replacing(self._folder / _file_of(epoch)) as file:
            file.write(data)
        self._about["epochs"][str(epoch)] = hashlib.sha256(data).hexdigest()
        replace_file(self._folder / ABOUT, (json.dumps(self._about, indent=1) + "\n").encode())


class LabelStore:
    """Reads a store: what its teacher said of this process's images."""

    def __init__(self, config: TrainConfig, plan: Plan, index: DatasetIndex) -> None:
        """Open the store of a configuration and make sure that it is of this run's images.

        Its classes may stand in another order: answers are read in the order of `index`, and `note`
        says so. Raises UserError if it is no store, was made with other settings or classes, or
        lacks epochs.
        """
        assert config.distill.teacher_labels is not None
        self._folder, self._plan = config.distill.teacher_labels, plan
        about = _read_about(self._folder)
        _check_settings(self._folder, about["settings"], _settings_of(config, plan, index))
        num_classes = len(index.class_names)
        located = require_classes(
            read_classes(about),
            index.classes,
            f"teacher_labels must be of the classes of the training set ({num_classes})",
            (str(self._folder), str(index.path)),
            "Give another store.",
        )
        self._numbers = np.array(located.numbers, dtype=np.int64)
        self.note = located.explain("the training set")
        missing = [n for n in range(config.optim.epochs) if str(n) not in about["epochs"]]
        if missing:
            raise UserError(
                f"teacher_labels must hold every epoch of the run ({config.optim.epochs}). Found: "
                f"none of epoch {missing[0] + 1} in {self._folder}. Run `fastdeit teach` for them."
            )
        self.model: str = about["teacher"]["model"]
        self._num_classes = num_classes
        self._type = row_type(config.distill, num_classes)
        # The sizes now, before hours are spent; the checksums when an epoch is read.
        num_rows = plan.num_steps * plan.batch_size
        for epoch in range(config.optim.epochs):
            path = self._folder / _file_of(epoch)
            if not path.is_file():
                raise damaged(path, "which is missing")
            found = path.stat().st_size // self._type.itemsize
            if found < num_rows:
                raise damaged(path, f"which holds {found} of the {num_rows} answers of an epoch")
        self._checksums: dict[str, str] = about["epochs"]
        self._epoch = -1
        self._rows: NDArray[Any] = np.empty(0, dtype=self._type)

    def read(self, epoch: int, step: int) -> Tensor:
        """What the teacher said of this process's share of a step; both count from 0.

        (b,) int64 decisions, or (b, K) float32 probabilities; on the CPU. Raises UserError if the
        file is damaged.
        """
        if epoch != self._epoch:
            self._rows, self._epoch = self._load(epoch), epoch
        rows = self._rows[self._plan.share(step)]
        if rows.dtype.names is None:
            return torch.from_numpy(self._numbers[rows])
        classes = torch.from_numpy(self._numbers[rows["classes"]])
        probs = torch.from_numpy(np.ascontiguousarray(rows["probs"]))
        return dense_probs(classes, probs, self._num_classes)

    def _load(self, epoch: int) -> NDArray[Any]:
        path = self._folder / _file_of(epoch)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self._checksums[str(epoch)]:
            raise damaged(path, f"whose checksum is not the one in {ABOUT}")
        return np.frombuffer(data, dtype=self._type)


def damaged(path: Path, reason: str) -> UserError:
    """The error for an epoch that cannot be read."""
    return UserError(
        f"teacher_labels are damaged. Found: {path}, {reason}. Run the same `fastdeit teach` "
        "again: it asks for that epoch anew. If it was made with another --batch-size, pass that."
    )


def _file_of(epoch: int) -> str:
    return f"epoch{epoch:05d}.labels"


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about = parse_json((folder / ABOUT).read_text("utf-8"))
        if about["format"] == FORMAT:
            return about  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if (folder / ABOUT).exists():
        raise UserError(
            f"a store of labels must have the {ABOUT} that `fastdeit teach` wrote. Found: "
            f"{folder / ABOUT}, which is damaged. Delete {folder}, and ask the teacher again."
        )
    raise UserError(
        f"a store of labels must be a folder that `fastdeit teach` wrote. Found: {folder}. Give "
        "its --out."
    )


def _check_settings(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    names = [
        name for name in {**theirs, **ours} if not is_alike(name, theirs.get(name), ours.get(name))
    ]
    if names:
        found = "; ".join(
            IN_WORDS.get(name, f"{name} {theirs.get(name)} in the store and {ours.get(name)} here")
            for name in names[:3]
        )
        raise UserError(
            f"a store of labels must be of the run's own images. Found: {folder} with {found}. "
            "Give the settings that it was made with, or run `fastdeit teach` again."
        )


def is_alike(name: str, theirs: Any, ours: Any) -> bool:
    """Whether a setting has the same meaning on both sides.

    A conversion encodes the few irregular images anew, which may move the median a little; all of
    them encoded anew move it much.
    """
    if name == "data.median_bytes" and theirs is not None:
        return bool(abs(ours - theirs) <= 0.01 * theirs)
    return bool(theirs == ours)
