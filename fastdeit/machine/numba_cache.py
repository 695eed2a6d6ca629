"""Loops compiled by numba, with their machine code kept on disk."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba

from fastdeit.files import user_cache

log = logging.getLogger(__name__)

SOURCES = (
    "fastdeit.augment.cpu.kernels",
    "fastdeit.augment.cpu.warp",
    "fastdeit.keyed",
    "fastdeit.pipelines.datasets.index",
    "fastdeit.pipelines.engines.ffcv_engine",
    "fastdeit.pipelines.engines.ffcv_library",
    "fastdeit.pipelines.engines.plain_files",
    "fastdeit.pipelines.engines.resample",
    "fastdeit.pipelines.plan.crops",
    "fastdeit.policies.operations",
)
"""Every module of which something is in a kept function: code or a constant."""

FORGOTTEN_AFTER_S = 30 * 24 * 3600.0


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function without the GIL, and keep the machine code on disk where that can be.

    The options are more of numba.njit's, such as parallel=True. The code is kept in `code_folder`.
    If there is none, each process compiles anew; numba alone would fail.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder = code_folder()
        with _numba_cache(folder):
            return numba.njit(nogil=True, cache=folder is not None, **options)(function)

    return decorate


@functools.cache
def code_folder() -> Path | None:
    """The folder of this version's machine code; None if it cannot be written to.

    It is in NUMBA_CACHE_DIR, beside the sources or in the user's cache, whichever can be had first.
    Its name holds a hash of `SOURCES`: numba itself looks at the file of a function only, not at
    those of what the function calls.
    """
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(_path_of(name).read_bytes())
    given = os.environ.get("NUMBA_CACHE_DIR")
    for parent in [Path(given)] if given else [Path(__file__).parent / "__pycache__", user_cache()]:
        folder = parent / f"numba-{digest.hexdigest()[:16]}"
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                _forget_others(folder)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    log.warning("compiled code cannot be kept on disk; set NUMBA_CACHE_DIR to a folder for it")
    return None


def _path_of(module: str) -> Path:
    # Asked of the two packages only: their parts would be imported, and import this module.
    package = "fastdeit.pipelines" if module.startswith("fastdeit.pipelines.") else "fastdeit"
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    rest = module.removeprefix(f"{package}.").replace(".", "/")
    return Path(spec.origin).parent / f"{rest}.py"


def _forget_others(folder: Path) -> None:
    for other in folder.parent.glob("numba-*"):
        if time.time() - other.stat().st_mtime > FORGOTTEN_AFTER_S:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _numba_cache(folder: Path | None) -> Iterator[None]:
    # numba reads it when a function is decorated; other packages' functions stay where they were.
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder or "")
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
