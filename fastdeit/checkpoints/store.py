"""The checkpoints of a run: saved while the training goes on, rotated, and found again."""

from __future__ import annotations

import errno
import re
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastdeit.checkpoints.file import load_checkpoint, save_checkpoint
from fastdeit.checkpoints.host_copy import HostCopy
from fastdeit.errors import UserError
from fastdeit.files import replacing, sync_folder

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
_OLDER = re.compile(r"checkpoint-step(\d{8,})\.pt")
_ANY = re.compile(r"checkpoint(-step\d{8,})?\.pt|best\.pt")
_LEFTOVER = re.compile(r"\.(checkpoint(-step\d{8,})?|best)\.pt\.partial")


class CheckpointStore:
    """Saves the checkpoints of one run in a thread, at most one at a time.

    checkpoint.pt is the newest, checkpoint-stepNNNNNNNN.pt are those before it and best.pt is the
    best. At every moment at least one whole checkpoint has one of these names, and nothing else
    has; the disk needs room for `keep` + 2. Leave it by `with` or `close`: a save that has begun is
    always finished, also at the end of the interpreter.
    """

    def __init__(self, out: Path, keep: int) -> None:
        """Begin with what is in the folder of a run, which exists; nothing is read or written yet.

        `keep` of the newest are kept, checkpoint.pt among them; at least 1.
        """
        self.out = out
        self.keep = keep
        self._host = HostCopy()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step: int | None = None
        """Of checkpoint.pt; None if it must be read to know."""

    def save(self, content: dict[str, Any], step: int, is_best: bool) -> None:
        """Copy the tensors to host memory and return; a thread writes them.

        A save that is still being written is waited for first. The tensors may be changed as soon
        as this returns. On a GPU the copies are put in the current stream, and nothing is waited
        for.

        Args:
            content: from `checkpoint_content`.
            step: of the run, from 0; goes into the file as "step".
            is_best: whether it is the best so far, which best.pt is to be.

        Raises:
            OSError: the save before this one failed; nothing of this one was begun.
            TypeError: the content has something that a checkpoint cannot hold.
            ValueError: the content has another step.
        """
        if content.get("step", step) != step:
            raise ValueError(f"step must be the content's, {content['step']}. Found: {step}.")
        self.wait()
        copied, events = self._host.take({**content, "step": step})
        # Not a daemon, so that the interpreter waits for it at its end.
        self._thread = threading.Thread(
            target=self._run, args=(copied, events, step, is_best), name="checkpoint"
        )
        self._thread.start()

    def check(self) -> None:
        """Raise the OSError of a save that failed, once; cheap.

        Such as a full disk. It names the file and says what became of it.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until the save that is being written is on the disk; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Wait as `wait` does and let the host memory go; more than once is as good as once."""
        try:
            self.wait()
        finally:
            if self._thread is None:  # else the wait was interrupted, and the thread still reads
                self._host = HostCopy()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close; an error of the training comes before one of the save, which is then a warning."""
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            warnings.warn(str(failure), RuntimeWarning, stacklevel=2)

    def _run(
        self, content: dict[str, Any], events: list[torch.cuda.Event], step: int, is_best: bool
    ) -> None:
        """Write one checkpoint; an error is kept for `check`."""
        try:
            for event in events:
                event.synchronize()
            self._write(content, step)
            self._put_in_order(step, is_best)
        except BaseException as error:
            self._error = error

    def _write(self, content: dict[str, Any], step: int) -> None:
        """Replace checkpoint.pt; the one before it gets a name of its own."""
        newest = self.out / CHECKPOINT
        before = _inode(newest)
        moved_to: list[Path] = []
        try:
            for path in self.out.iterdir():
                if _LEFTOVER.fullmatch(path.name):  # of a save that was killed
                    path.unlink()
            save_checkpoint(newest, content, lambda: self._keep_old(step, moved_to))
        except OSError as error:
            for path in moved_to:
                if not newest.exists():
                    path.replace(newest)
            self._step = None  # what is there now is read before it is given another name
            kept = "; the one before it is as it was" if before and _inode(newest) == before else ""
            raise _explained(error, f"while step {step} was saved{kept}", newest) from error
        self._step = step

    def _keep_old(self, step: int, moved_to: list[Path]) -> None:
        """Give checkpoint.pt a second name, or another one where there are no links."""
        newest = self.out / CHECKPOINT
        if self.keep == 1 or not newest.exists():
            return
        old_step = self._step
        if old_step is None:
            try:
                old_step = load_checkpoint(newest)["step"]
            except (UserError, KeyError):  # damaged, or not of a run: not worth a place
                return
        if old_step != step:
            older = self.out / f"checkpoint-step{old_step:08d}.pt"
            if not _link(newest, older):
                newest.replace(older)
                moved_to.append(older)

    def _put_in_order(self, step: int, is_best: bool) -> None:
        """Set best.pt and remove the oldest checkpoints."""
        newest, best = self.out / CHECKPOINT, self.out / BEST
        try:
            if is_best and not _link(newest, best):
                with newest.open("rb") as source, replacing(best) as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            for path in _older(self.out)[self.keep - 1 :]:
                path.unlink()
            sync_folder(self.out)
        except OSError as error:
            what = f"while {BEST} and older checkpoints were put in order; step {step} is saved"
            raise _explained(error, what, newest) from error


def newest_checkpoint(
    out: Path, on_skip: Callable[[str], None]
) -> tuple[dict[str, Any], Path] | None:
    """Load the newest checkpoint of a run that is whole: (its content, its path).

    None if there is no checkpoint at all; UserError if there are some, and none can be read.
    Nothing is changed. `on_skip` is called with one line for each newer one that cannot be read.
    """
    paths = [path for path in (out / CHECKPOINT, *_older(out)) if path.exists()]
    for path in paths:
        try:
            return load_checkpoint(path), path
        except UserError as error:
            on_skip(f"{path.name} is skipped: {error}")
    if not paths:
        return None
    raise UserError(
        f"a run must have a checkpoint that can be read to go on. Found: none of "
        f"{', '.join(path.name for path in paths)} in {out} can. Copy a whole one, {BEST} say, to "
        f"{out / CHECKPOINT}, or give another --out."
    )


def is_checkpoint_file(name: str) -> bool:
    """Whether a name in the folder of a run is one of a checkpoint, or of one half written."""
    return bool(_ANY.fullmatch(name) or _LEFTOVER.fullmatch(name))


def _older(out: Path) -> list[Path]:
    """The checkpoints before the newest, from the last step to the first."""
    if not out.is_dir():
        return []
    found = [(path, _OLDER.fullmatch(path.name)) for path in out.iterdir()]
    steps = [(int(match[1]), path) for path, match in found if match]
    return [path for _, path in sorted(steps, reverse=True)]


def _link(path: Path, name: Path) -> bool:
    """Give a file a second name, in place of what had it; False where that is not possible."""
    temporary = name.with_name(f".{name.name}.partial")
    try:
        temporary.hardlink_to(path)
    except OSError:
        return False
    try:
        temporary.replace(name)
    finally:
        # There still if both were the same file: such a rename does nothing.
        temporary.unlink(missing_ok=True)
    return True


def _inode(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _explained(error: OSError, what: str, path: Path) -> OSError:
    """The error in one line: why, what was going on and what became of it, and the file."""
    reason = error.strerror or str(error) or type(error).__name__
    return OSError(error.errno or errno.EIO, f"{reason} {what}", str(path))
