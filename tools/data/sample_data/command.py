"""The command `fastdeit sample-data`: an ImageNet in miniature, made on this machine."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastdeit.errors import UserError
from fastdeit.files import take_lock
from fastdeit.text.json_text import parse_json
from fastdeit.text.progress import progress, say
from fastdeit.tools.data.workers import num_workers

FORMAT = 1
"""Version of the generator: raised when equal parameters no longer give equal bytes."""
RECORD = "sample-data.json"
MARKER = ".fastdeit-sample-data"


def sample_data(
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    train_images: int = 2400,
    val_images: int = 600,
    seed: int = 0,
    layout: Literal["folder", "ilsvrc"] = "folder",
    broken: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    workers: int = 0,
) -> int:
    """Make a small source that looks like ImageNet, oddities included, for trying things out.

    Twenty classes with WordNet-like names: ten are random parts of photographs that ship inside
    scikit-image, scikit-learn and matplotlib, ten are drawn objects in front of such photographs.
    Among them is one of each oddity of ImageNet: CMYK, greyscale, progressive, PNG under a JPEG's
    name, rotated by EXIF, 4:4:4, with restart intervals, tiny, huge. Equal options give equal
    files. A DIR made before with equal options is left as it is; nothing else is ever replaced.

    Args:
        directory: where to put it; must not exist yet, or be empty.
        train_images: pictures in train, over all classes.
        val_images: pictures in val, over all classes.
        seed: another seed gives other pictures.
        layout: folder: train/CLASS/*.JPEG and val/CLASS/*.JPEG; ilsvrc: the three archives of
            ILSVRC 2012 (train, val, development kit).
        broken: put a truncated and an empty file into train.
        workers: processes that make pictures; 0 takes every usable core.

    Returns:
        The exit code.
    """
    parameters = {
        "train_images": train_images,
        "val_images": val_images,
        "seed": seed,
        "layout": layout,
        "broken": broken,
    }
    _check_options(train_images, val_images, seed)
    processes = num_workers(workers)
    target = directory.expanduser().resolve()
    start = time.perf_counter()
    try:
        if _is_made_already(target, parameters):
            say(f"{directory} is already there, made with the same options: nothing to do.")
            return 0
        with unfinished_folder(target) as folder:
            record = _write_source(folder, parameters, processes)
    except OSError as error:
        raise UserError(
            f"sample data cannot be written to {directory}. Found: {error}. "
            "Name a folder on a disk that is writable and has room for it."
        ) from error
    counts = record["counts"]
    say(
        f"{directory}: {counts['train'] + counts['val']} images, {counts['bytes'] / 1e6:.1f} MB, "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0


def _check_options(train_images: int, val_images: int, seed: int) -> None:
    from fastdeit.tools.data.sample_data.classes import CLASSES

    for option, value in (("--train-images", train_images), ("--val-images", val_images)):
        if value < len(CLASSES):
            raise UserError(
                f"{option} must be >= {len(CLASSES)}, one for each class. Found: {value}. "
                f"Pass {option} {len(CLASSES)} or more."
            )
    if seed < 0:
        raise UserError(f"--seed must be >= 0. Found: {seed}. Pass --seed {-seed}.")


def _is_made_already(target: Path, parameters: dict[str, Any]) -> bool:
    """Say whether `target` was made with the same options; False if it is free."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    found = "a file" if target.is_file() else "a folder that this command did not make"
    try:
        record = parse_json((target / RECORD).read_text(encoding="utf-8"))
        made_with = record["parameters"] | {"format": record["format"]}
    except (OSError, ValueError, KeyError, TypeError):
        made_with = None
    if made_with is not None:
        wanted = parameters | {"format": FORMAT}
        other = [
            f"{name}={made_with.get(name)}"
            for name, value in wanted.items()
            if made_with.get(name) != value
        ]
        if not other:
            return True
        found = f"sample data with other options ({', '.join(other)})"
    raise UserError(
        f"sample data cannot go to {target}: it exists. Found: {found}. Nothing existing is "
        "overwritten. Name another folder, or remove this one first."
    )


@contextlib.contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` that becomes it if the block ends well, and goes if not."""
    folder = target.with_name(target.name + ".partial")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARKER).exists() and any(folder.iterdir()):
        raise UserError(
            f"sample data needs the folder {folder} while it is written. Found: a folder that this "
            "command did not make. Rename or remove it."
        )
    try:
        # Locked as long as its writer lives: what a killed run left behind is replaced.
        marker = take_lock(folder / MARKER)
    except BlockingIOError as error:
        raise UserError(
            f"sample data is being written to {target} by another process. Found: {folder} is "
            "locked. Wait for it to end, or name another folder."
        ) from error
    with marker:
        try:
            for left in folder.iterdir():
                if left.name != MARKER:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield folder
            (folder / MARKER).unlink()
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _write_source(folder: Path, parameters: dict[str, Any], workers: int) -> dict[str, Any]:
    from fastdeit.tools.data.sample_data.classes import CLASSES
    from fastdeit.tools.data.sample_data.layouts import LAYOUTS, plan_pictures
    from fastdeit.tools.data.sample_data.photos import load_photos, photo_packages
    from fastdeit.tools.data.sample_data.scenes import make_picture
    from fastdeit.tools.data.workers import in_chunks, ordered_map

    load_photos()  # a missing package is reported here, not from inside a worker
    if parameters["layout"] == "ilsvrc":
        check_scipy()
    num_train, num_val = parameters["train_images"], parameters["val_images"]
    plan = plan_pictures(parameters["seed"], num_train, num_val, parameters["broken"])
    layout = LAYOUTS[parameters["layout"]](folder, plan)
    num_bytes = 0
    chunks = in_chunks([named.picture for named in plan])
    pictures = ordered_map(make_picture, parameters["seed"], chunks, workers)
    with (
        contextlib.closing(pictures) as files,
        progress(plan, "making pictures") as bar,
    ):
        for named, data in zip(bar, files, strict=True):
            layout.add(named, data)
            num_bytes += len(data)
    layout.finish()
    record = {
        "format": FORMAT,
        "parameters": parameters,
        "packages": photo_packages(),
        "counts": {
            "classes": len(CLASSES),
            "train": num_train,
            "val": num_val,
            "bytes": num_bytes,
        },
        "oddities": [
            {"kind": one.picture.oddity, "path": one.path} for one in plan if one.picture.oddity
        ],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def check_scipy() -> None:
    """Find out before the work, not after it, whether meta.mat can be written; UserError if not."""
    import importlib.util

    if importlib.util.find_spec("scipy") is None:
        raise UserError(
            "--layout ilsvrc needs scipy for meta.mat. Found: not installed. "
            "Install what it needs: pip install 'fastdeit[sample-data]'"
        )
