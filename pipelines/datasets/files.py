"""Image files without classes, for prediction."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fastdeit import UserError
from fastdeit.pipelines.datasets.imagefolder import read_size
from fastdeit.pipelines.datasets.index import DatasetIndex, sample_key
from fastdeit.pipelines.datasets.pictures import PictureError
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.urls import refuse_url
from fastdeit.pipelines.datasets.walk import EXTENSIONS, walk_images


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Image files: those that are named, and all in folders that are named, at any depth.

    In folders, files count by `walk_images`; that hidden ones are left out is said. Raises
    UserError if there is nothing at a path, or no image in a folder.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            refuse_url(path)
            if not path.exists():
                raise UserError(
                    f"every image must be there. Found: nothing at {path}. Give a file or folder."
                )
            found.append(path)
            continue
        strays = Strays()
        inside = sorted(path / name for name, *_ in walk_images(path, "", strays))
        strays.say_hidden(path)
        if not inside:
            raise UserError(
                f"a folder must hold an image ({', '.join(sorted(EXTENSIONS))}). Found: none in "
                f"{path}. Give another folder, or name the files."
            )
        found += inside
    return found


def open_files(files: Iterable[Path]) -> tuple[DatasetIndex | None, dict[Path, str]]:
    """An index of image files, in their order, all of class 0.

    None if none is an image; beside it, why each other file is none.
    """
    sizes, good, bad = [], [], {}
    for file in files:
        try:
            sizes.append((*read_size(file), file.stat().st_size))
            good.append(file)
        except OSError as error:
            bad[file] = error.strerror or str(error)
        except PictureError as error:
            bad[file] = str(error)
    if not good:
        return None, bad
    columns = np.array(sizes, dtype=np.int64)
    count = len(good)
    index = DatasetIndex(
        path=good[0].parent,
        container="imagefolder",
        files=tuple(good),
        file_ids=np.arange(count, dtype=np.int32),
        offsets=np.zeros(count, dtype=np.int64),
        sizes=columns[:, 2].copy(),
        modes=np.zeros(count, dtype=np.uint8),
        labels=np.zeros(count, dtype=np.int64),
        widths=columns[:, 0].astype(np.int32),
        heights=columns[:, 1].astype(np.int32),
        keys=np.array([sample_key(str(file)) for file in good], dtype=np.uint64),
    )
    return index, bad
