"""Worker processes: how many, and how they end when the user stops the program."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from fastdeit import UserError
from fastdeit.cores import num_usable_cores


def num_workers(asked: int) -> int:
    """The number of processes for `--workers`; 0 takes every usable core.

    Raises:
        UserError: it is negative.
    """
    if asked < 0:
        raise UserError(f"workers must be 0 or more. Found: {asked}. Pass --workers 0.")
    return asked or num_usable_cores()


@contextmanager
def stop_at_once(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Drop the work that is still queued when the block is left by an exception."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
