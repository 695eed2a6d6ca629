"""Comparing what conversions wrote, and conversions that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def contents(path: Path) -> dict[str, bytes]:
    """Every byte of a container and its manifest, by name."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    manifest = path.with_name(f"{path.name}.json")
    files += [manifest] if manifest.is_file() else []
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


def same_bytes(left: Path, right: Path) -> bool:
    """Whether two containers of one name, with their manifests, are equal in every byte."""
    return contents(left) == contents(right)


CALLS = ("pwritev", "fsync", "truncate", "open", "replace", "unlink")


def convert_and_die(at: int, source: Path, out: Path, options: dict[str, Any]) -> None:
    """Convert, and be killed at call number `at` of those that change the disk.

    Args:
        at: from 0.
        source: as in `convert`.
        out: as in `convert`.
        options: as in `convert`.
    """
    from fastdeit.tools.data.convert import conversion
    from fastdeit.tools.data.convert.command import convert

    conversion.COMMIT_S = 0.0
    count = 0

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    convert(source, out, workers=1, **options)
    (out.parent / f"calls-{count}").touch()


def run_and_die(at: int, source: Path, out: Path, **options: Any) -> bool:
    """Whether a conversion in another process was killed before its end."""
    process = multiprocessing.get_context("forkserver").Process(
        target=convert_and_die, args=(at, source, out, options)
    )
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0
