"""The folder of an unfinished conversion: beside OUT, for one process at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastdeit import UserError
from fastdeit.files import take_lock
from fastdeit.text.progress import say

LOCK, JOURNAL, SPOOL = "lock", "journal", "spool"
MAX_NAME_BYTES = 255  # of nearly all file systems
# What a conversion puts into its folder.
_OURS = re.compile(r"lock|journal|spool|\.spool\.partial|pages-\d+|shards|part|replaced")


def work_path(out: Path) -> Path:
    """Where what is unfinished of OUT lies."""
    return out.with_name(f".{out.name}.partial")


@contextmanager
def locked_work(out: Path) -> Iterator[Path]:
    """Make the folder, or go into the one that is there, and keep others out.

    It is removed at the end, unless it holds something to go on with. Raises UserError if another
    conversion is writing to the same OUT, the folder is somebody's own, or OUT cannot have its
    name.
    """
    folder = work_path(out)
    _check_name(out)
    foreign = [path for path in folder.glob("*") if not _OURS.fullmatch(path.name)]
    if foreign or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"{folder} is for what is unfinished of OUT. Found: {(foreign or [folder])[0]}, which "
            "`fastdeit convert` did not make. Move it away, or give another OUT."
        )
    handle = None
    while handle is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = take_lock(folder / LOCK)
        except FileNotFoundError:  # one that just ended has removed the folder
            continue
        except BlockingIOError:
            raise UserError(
                f"only one conversion may write to an OUT. Found: another one writing {out}. "
                "Wait for it, or give another name."
            ) from None
    try:
        yield folder
    finally:
        if any(folder.rglob(JOURNAL)) or any(folder.glob(SPOOL)):
            say(f"what was done is kept in {folder}, to go on with")
        else:
            shutil.rmtree(folder)
        handle.close()


def _check_name(out: Path) -> None:
    """Make sure that OUT can have its name, before hours are spent."""
    if out.is_symlink():
        raise UserError(
            f"OUT must not be a link. Found: {out}, a link to {out.readlink()}. Give the place "
            "itself, or remove the link."
        )
    most = MAX_NAME_BYTES - len("..json.partial")
    if not 0 < len(os.fsencode(out.name)) <= most:
        raise UserError(f"OUT must have a name of 1 to {most} bytes. Found: {out}. Give another.")


def bytes_on_disk(folder: Path) -> int:
    """What the files of a folder take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def check_space(folder: Path, needed: int) -> None:
    """Raise a UserError if a disk has no room for so many bytes, before hours are spent."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the disk of OUT must have room for about {format_bytes(needed)} more. Found: "
            f"{format_bytes(free)} free in {folder}. Make room, or give an OUT on another disk."
        )


def format_bytes(count: int) -> str:
    """A number of bytes for people."""
    if count < 1_000_000_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e9:.1f} GB"
