"""Which files in a folder are images: one answer for all that reads folders."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fastdeit import UserError
from fastdeit.pipelines.datasets.strays import Strays, is_hidden_folder

# torchvision.datasets.folder.IMG_EXTENSIONS
TORCHVISION = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EXTENSIONS = (
    *TORCHVISION,
    *(".jpe", ".jfif", ".pjpeg", ".pjp", ".gif", ".pbm", ".pnm", ".dib"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".tga"),
)
"""What is called so is an image, or a damaged one; other files are looked into."""
_HEAD_BYTES = 32
_FIRST_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|P[1-6]\s+[\d#]"
    rb"|.{4}ftyp(?:avi[fs]|hei[cxms]|hev[cxms]|mif1|msf1)"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"
    rb"|qoif|8BPS|DDS |icns|\0\0\x01\0[^\0]|\x0a[\0\x02\x03\x05]\x01|\x01\xda|\x59\xa6\x6a\x95",
    re.DOTALL,
)
"""Of JPEG, PNG, GIF, WebP, TIFF, BMP, PNM, AVIF and HEIF, JPEG 2000; of QOI, PSD, DDS, ICNS, ICO,
PCX, SGI and Sun raster. TGA begins with nothing of its own."""


def walk_images(root: Path, folder: str, strays: Strays) -> Iterator[tuple[str, int, int]]:
    """Yield each image in a folder below `root` ("" is all) and the folders in it, in no order.

    (path below the root, bytes, nanoseconds of its last change); what is left out goes to `strays`.
    Links are followed. Raises UserError if one leads to where it lies itself, or what is named as
    an image is no file.
    """
    # Beside each folder, what it and the links on the way to it are.
    waiting: list[tuple[str, tuple[Path, ...]]] = [(folder, ((root / folder).resolve(),))]
    while waiting:
        inside, way = waiting.pop()
        prefix = f"{inside}/" if inside else ""
        with os.scandir(root / inside) as entries:
            for entry in entries:
                name = prefix + entry.name
                if _is_folder(entry):
                    if is_hidden_folder(entry.name):
                        strays.hidden.add(name)
                    elif entry.is_symlink():
                        waiting.append((name, _follow(root / name, root / inside, way)))
                    else:
                        waiting.append((name, way))
                elif entry.name.startswith("._"):  # what macOS knows of a file
                    strays.hidden.add(name)
                elif not (
                    entry.name.lower().endswith(EXTENSIONS)
                    or (entry.is_file() and _begins_as_image(root / name))
                ):
                    strays.not_images.add(name)
                elif entry.is_file():
                    found = entry.stat()
                    yield name, found.st_size, found.st_mtime_ns
                elif entry.is_symlink():  # to nothing: it is there, and cannot be read
                    yield name, 0, 0
                else:
                    raise UserError(
                        f"every image must be a file. Found: {root / name}, which is a pipe, a "
                        "socket or a device. Remove it."
                    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _loop(Path(entry.path)) from error


def _follow(link: Path, folder: Path, way: tuple[Path, ...]) -> tuple[Path, ...]:
    """What to keep of the way behind a link in a folder, unless it leads back."""
    target = link.resolve()
    passed = (*way, folder.resolve())
    if any(target == each or target in each.parents for each in passed):
        raise _loop(link)
    return (*passed, target)


def _loop(link: Path) -> UserError:
    return UserError(
        f"a link must not lead to a folder that it lies in, or to itself. Found: {link}, a link to "
        f"{link.readlink()}. Remove it."
    )


def _begins_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _FIRST_BYTES.match(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
