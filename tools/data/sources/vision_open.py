"""torchvision's dataset classes: found by name, opened for a split, never downloaded."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.tools.data.sources.inaturalist import choose_version

REFUSED = {
    "ImageFolder": "it is read without torchvision. Give the folder itself",
    "DatasetFolder": "it is read without torchvision. Give the folder itself",
    "ImageNet": "it is read without torchvision. Give the folder of the split, or the archives",
    "LSUN": "its loader runs a pickle. Give a folder with one folder a class",
    "LSUNClass": "its loader runs a pickle. Give a folder with one folder a class",
    "FakeData": "it is noise. Give a dataset",
    "VisionDataset": "it is no dataset. Give one",
}
SPLIT_WORDS = {"val": ("val", "valid"), "validation": ("val", "valid"), "valid": ("valid", "val")}
NEEDS_SCIPY = ("Flowers102", "StanfordCars", "SVHN")
READ_MATS = """
import contextlib, sys
from scipy.io import loadmat
for file in sys.argv[1:]:
    print(file, flush=True)
    with contextlib.suppress(Exception):
        loadmat(file)
"""
"""What is raised is raised again where it is read; what ends the process is not."""
MAT_SECONDS = 600
# What torchvision looks for; its own error does not say.
CARS = "stanford_cars/devkit/cars_meta.mat"
EXPECTED = {
    ("Flowers102", ""): tuple(f"flowers-102/{x}" for x in ("jpg", "imagelabels.mat", "setid.mat")),
    ("StanfordCars", "train"): (
        CARS,
        "stanford_cars/devkit/cars_train_annos.mat",
        "stanford_cars/cars_train",
    ),
    ("StanfordCars", "test"): (
        CARS,
        "stanford_cars/cars_test_annos_withlabels.mat",
        "stanford_cars/cars_test",
    ),
}


@dataclass(frozen=True, slots=True)
class VisionSet:
    """A dataset class and its arguments: small, so that it can be sent to a worker process."""

    name: str
    root: str
    arguments: tuple[tuple[str, Any], ...]

    def open(self, **more: Any) -> Any:
        """Build the dataset; it raises whatever torchvision raises."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.name)(self.root, **dict(self.arguments), **more)


@lru_cache(maxsize=1)
def _open_once(vision_set: VisionSet) -> Any:
    """The dataset, opened once in each process."""
    return vision_set.open()


@dataclass(frozen=True, slots=True)
class VisionItem:
    """One image of a dataset that holds neither files nor an array."""

    vision_set: VisionSet
    number: int

    def read(self) -> NDArray[np.uint8]:
        """See `Request`."""
        try:
            image = _open_once(self.vision_set)[self.number][0]
            return np.asarray(image.convert("RGB"))
        except (OSError, ValueError):
            raise
        except Exception as error:  # whatever a dataset raises, the image is bad
            raise ValueError(f"{type(error).__name__}: {error}") from error


def find_class(name: str) -> str:
    """The name of a torchvision dataset, written in any case, with or without dashes.

    Raises UserError if there is none.
    """
    import torchvision.datasets

    names: list[str] = [each for each in torchvision.datasets.__all__ if each[0].isupper()]
    known = {plain(each): each for each in names}
    found = known.get(plain(name))
    if found is None:
        close = difflib.get_close_matches(plain(name), known, n=3, cutoff=0.5)
        meant = " or ".join(known[each] for each in close) or "CIFAR10, Flowers102 or another"
        raise UserError(
            f"a dataset must be one of torchvision's classes. Found: {name}. Do you mean {meant}?"
        )
    if found in REFUSED:
        raise UserError(
            f"a dataset must be one that torchvision alone can read. Found: {found}; "
            f"{REFUSED[found]}."
        )
    return found


def plain(name: str) -> str:
    """A name without case, dashes and spaces."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def open_split(name: str, root: Path, split: str | None) -> tuple[VisionSet, Any]:
    """Open one split of a dataset; images that are files are not opened, but give their paths.

    `root` is torchvision's, or the folder that the class looks for in it. `split` is train, val,
    test, or a word of the class's own; None takes train, or all where there are no splits. Raises
    UserError if the split is impossible, or the files are not what the class expects.
    """
    import torchvision.datasets

    root = root.parent if root.name in ("flowers-102", "stanford_cars") else root
    if not root.is_dir():
        raise UserError(
            f"{name} must be in a folder. Found: none at {root}. Give torchvision's root."
        )
    check_scipy(name)
    check_mats(name, root, split)
    parameters = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
    _check_parameters(name, list(parameters.values())[1:])
    possible = ""
    for arguments in _possible_arguments(name, root, split, parameters):
        vision_set = VisionSet(name, str(root), tuple(arguments.items()))
        hook = {"loader": str} if "loader" in parameters else {}
        try:
            with _no_empty_folders_in(root):
                return vision_set, vision_set.open(**hook)
        except Exception as error:  # torchvision's classes raise whatever reading raises
            values = re.search(r"Valid values are \{(.*)\}", str(error))
            if not values:
                raise _not_found(name, root, arguments, error) from error
            possible = values[1]
    raise _wrong_split(name, split, possible)


def _wrong_split(name: str, split: str | None, possible: str) -> UserError:
    return UserError(
        f"split of {name} must be one of {possible}. Found: {split or 'none given'}. "
        "Choose one of these with --split."
    )


def _possible_arguments(
    name: str, root: Path, split: str | None, parameters: Any
) -> Iterator[dict[str, Any]]:
    """Yield the arguments that could mean a split, to be tried in turn."""
    word = split or "train"
    if name == "INaturalist":
        versions = list(_import_versions())
        yield {"version": choose_version(root, split, versions)}
    elif "split" in parameters:
        yield from ({"split": each} for each in SPLIT_WORDS.get(word, (word,)))
    elif "train" in parameters:
        if word not in ("train", "test"):
            raise _wrong_split(name, split, "train, test")
        yield {"train": word == "train"}
    elif split is None:
        yield {}
    else:
        raise UserError(
            f"{name} has no splits. Found: {split}. Leave --split out: it is converted whole."
        )


def _import_versions() -> dict[str, str]:
    from torchvision.datasets import inaturalist

    return dict(inaturalist.DATASET_URLS)


def _check_parameters(name: str, parameters: list[inspect.Parameter]) -> None:
    """Refuse a class that needs more than a root and a split."""
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    more = [each for each in needed if each not in ("root", "split", "train")]
    if more or "root" not in [each.name for each in parameters]:
        raise UserError(
            "a dataset must need no more than a folder and a split. "
            f"Found: {name}, which needs {', '.join(more) or 'no folder'}. "
            "Write its images to a folder with one folder a class."
        )


def check_scipy(name: str) -> None:
    """See that scipy is there for a dataset that needs it; UserError if not."""
    if name not in NEEDS_SCIPY:
        return
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{name} is read with scipy. Found: it is not installed. "
            "Run pip install 'fastdeit[convert]'."
        ) from error


def check_mats(name: str, root: Path, split: str | None) -> None:
    """Raise a UserError if scipy's reader ends a process by a .mat, before it is this one."""
    if name not in NEEDS_SCIPY:
        return
    pattern = f"{split or 'train'}_*.mat" if name == "SVHN" else "*.mat"
    folders = (root, root / "flowers-102", root / "stanford_cars", root / "stanford_cars/devkit")
    files = [str(file) for folder in folders for file in sorted(folder.glob(pattern))]
    command = [sys.executable, "-c", READ_MATS, *files]
    try:
        reading = subprocess.run(command, capture_output=True, timeout=MAT_SECONDS)
        code, said = reading.returncode, reading.stdout
    except subprocess.TimeoutExpired as error:
        code, said = -signal.SIGALRM, error.stdout or b""
    if code < 0:
        file = said.decode(errors="replace").splitlines()[-1:] or files[:1]
        raise UserError(
            f"{name} must have .mat files that can be read. Found: {', '.join(file)}, at which "
            f"scipy ended by {signal.Signals(-code).name}. Unpack the original archives again."
        )


@contextlib.contextmanager
def _no_empty_folders_in(root: Path) -> Iterator[None]:
    """Remove the empty folder that some classes make before they find nothing in it."""
    before = set(root.iterdir())
    try:
        yield
    except Exception:
        for folder in set(root.iterdir()) - before:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _not_found(name: str, root: Path, arguments: dict[str, Any], error: Exception) -> UserError:
    """The error for files that are not what the class expects, naming them where it is known."""
    split = str(arguments.get("split", ""))
    wanted = EXPECTED.get((name, split)) or EXPECTED.get((name, ""), ())
    missing = [each for each in wanted if not (root / each).exists()]
    reason = re.sub(r"\s*You can use download=True to download it\.?", "", str(error))
    reason = " ".join(reason.split())
    found = f"no {', '.join(missing)}" if missing else f"{type(error).__name__}: {reason}"
    files = ", ".join(wanted) or "the files that torchvision's class of that name looks for"
    return UserError(
        f"{name} must have {files}. Found: {found} in {root}. "
        "Unpack the original archives there; nothing is downloaded."
    )
