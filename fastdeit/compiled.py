"""Loops compiled by numba."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba

log = logging.getLogger(__name__)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function without the GIL, and keep the machine code on disk where that can be.

    Args:
        options: more of numba.njit's, such as parallel=True.

    Note: numba keeps it beside the source, or in the user's cache folder, or in NUMBA_CACHE_DIR. If
    none of them can be written to, each process compiles anew; numba alone would fail.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _say_once()
            return numba.njit(nogil=True, **options)(function)

    return decorate


@functools.cache
def _say_once() -> None:
    log.warning("compiled code cannot be kept on disk; set NUMBA_CACHE_DIR to a folder for it")
