"""Which files in a folder are images: one answer for all that reads folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastdeit import UserError
from fastdeit.pipelines.datasets.strays import Strays, is_hidden_folder

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def walk_images(root: Path, folder: str, strays: Strays) -> Iterator[tuple[str, int]]:
    """Yield each image in a folder below `root` and the folders in it, in no order.

    (path below the root, bytes); what is left out goes to `strays`. Links are followed.
    """
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}"
                if entry.is_dir():
                    if is_hidden_folder(entry.name):
                        strays.hidden.add(name)
                    else:
                        waiting.append(name)
                elif entry.name.startswith("._"):  # what macOS knows of a file
                    strays.hidden.add(name)
                elif not entry.name.lower().endswith(EXTENSIONS):
                    continue
                elif entry.is_file():
                    yield name, entry.stat().st_size
                elif entry.is_symlink():  # to nothing: it is there, and cannot be read
                    yield name, 0
                else:
                    raise UserError(
                        f"every image must be a file. Found: {root / name}, which is a pipe, a "
                        "socket or a device. Remove it."
                    )
