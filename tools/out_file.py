"""A file that a command writes: new, unless it may replace what is there."""

from __future__ import annotations

from pathlib import Path

from fastdeit.errors import UserError


def check_out(out: Path, overwrite: bool, source: Path) -> None:
    """Make sure that a file may be written.

    Args:
        out: the file.
        overwrite: whether a file that is there may be replaced.
        source: what is read; never replaced.

    Raises:
        UserError: there is a folder, the source, or a file that may not be replaced.
    """
    if out.exists() and (out.is_dir() or (source.exists() and out.samefile(source))):
        what = "a folder" if out.is_dir() else "the file that is read"
        raise UserError(f"OUT must be a new file. Found: {out}, {what}. Give another name.")
    if out.exists() and not overwrite:
        raise UserError(
            f"OUT must be a new file. Found: {out}. Pass --overwrite to replace it, or give "
            "another name."
        )
