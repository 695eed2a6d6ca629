"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from fastdeit.errors import UserError


@contextmanager
def replacing(path: Path, before_rename: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file to be written: a temporary one, put on the disk and under its name at the end.

    What was at the path stays until the new file is complete; a failure leaves nothing else. The
    folder must exist. `before_rename` is called when the new file is on the disk and not under its
    name yet. An OSError of writing names the file.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename()
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into an error of writing it; Python does so for opening it only."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a rename does not survive a power cut before that.

    A file system that cannot do it for folders is left alone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file as `replacing` does; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)


def take_lock(path: Path) -> TextIO:
    """Open a file, made if need be, and keep other processes from it until it is closed.

    A killed process lets it go. File systems without locks are taken as they are. Raises
    BlockingIOError if another process has it.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            return file
        # Who had it may have removed it between our opening and our locking.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


LOCK = ".lock"


class FolderLock:
    """Holds the folder of a run for this process; a killed process lets it go."""

    def __init__(self, folder: Path) -> None:
        """Nothing is held yet; the folder may not exist."""
        self._folder = folder
        self._file: TextIO | None = None

    def take(self) -> None:
        """Take the folder, if it exists and is not held yet.

        File systems without locks are taken as they are. Raises UserError if another run holds it.
        """
        if self._file is not None or not self._folder.is_dir():
            return
        path = self._folder / LOCK
        try:
            file = take_lock(path)
        except BlockingIOError as error:
            holder = path.read_text("utf-8").strip() or "another process"
            raise UserError(
                f"one run at a time can write to a folder. Found: {holder} writes to "
                f"{self._folder}. Wait for its end, or give another --out."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def let_go(self) -> None:
        """Give the folder back; more than once is as good as once."""
        if self._file is not None:
            self._file.close()
            self._file = None


def user_cache() -> Path:
    """The folder of what can be made again: $XDG_CACHE_HOME/fastdeit, or the same in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of base directories: a relative one is none.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "fastdeit"


def check_out(out: Path, overwrite: bool, source: Path) -> None:
    """Refuse with a UserError a file that may not be written.

    That is a folder, the source, or a file that is there without `overwrite`.
    """
    if out.exists() and (out.is_dir() or (source.exists() and out.samefile(source))):
        what = "a folder" if out.is_dir() else "the file that is read"
        raise UserError(f"OUT must be a new file. Found: {out}, {what}. Give another name.")
    if out.exists() and not overwrite:
        raise UserError(
            f"OUT must be a new file. Found: {out}. Pass --overwrite to replace it, or give "
            "another name."
        )


MARK_BYTES = 2048


def check_ours(out: Path, mark: str, option: str, what: str, command: str) -> None:
    """Refuse with a UserError to replace anything but an earlier output of ours.

    Args:
        out: the file to be written.
        mark: stands in the first `MARK_BYTES` of each such output.
        option: of the command line, for the message.
        what: such an output in a word or two.
        command: what writes it, such as "fastdeit report".
    """
    if not os.path.lexists(out):
        return
    found = "a folder" if out.is_dir() else f"a file that `{command}` did not write"
    if out.is_file():
        with out.open("rb") as file:
            if mark.encode() in file.read(MARK_BYTES):
                return
    raise UserError(
        f"{option} must be a new file or an earlier {what}. Found: {out}, {found}. "
        f"Pass another {option}, or move the file away."
    )
