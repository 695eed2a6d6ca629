"""Worker processes that keep the order, do not run ahead of their reader, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from fastdeit import UserError
from fastdeit.cores import num_usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
"""Items a task: passing tasks costs little, and Ctrl-C ends soon."""


def num_workers(asked: int) -> int:
    """The number of processes for `--workers`; 0 takes every usable core.

    Raises:
        UserError: it is negative.
    """
    if asked < 0:
        raise UserError(f"workers must be 0 or more. Found: {asked}. Pass --workers 0.")
    return asked or num_usable_cores()


def ordered_map(
    function: Callable[[Any, Item], Result], shared: Any, items: Sequence[Item], workers: int
) -> Generator[Result, None, None]:
    """Call `function(shared, item)` in worker processes and yield the results in order.

    Args:
        function: a function of a module, so that it can be sent.
        shared: sent to each worker once.
        items: the work.
        workers: processes; one works in this process.

    Yields:
        A result for each item. What a worker raises is raised here. Closing the generator, or an
        exception in its reader, drops the work that waits.
    """
    if workers == 1:
        for item in items:
            yield function(shared, item)
        return
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    # From a fork server, not forked: the caller may have threads (torch, a test runner).
    context = multiprocessing.get_context("forkserver")
    workers = max(1, min(workers, len(chunks)))
    pool = ProcessPoolExecutor(workers, context, _prepare, (function, shared))
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            # Not all at once: what a slow disk has not taken yet would fill the memory.
            if len(waiting) >= 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any, Any], Any]
_shared: Any


def _prepare(function: Callable[[Any, Any], Any], shared: Any) -> None:
    """Keep what all items need, leave Ctrl-C to the parent, and end with it even if killed."""
    global _function, _shared
    _function, _shared = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    # Without this the workers of a killed parent wait for tasks forever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(items: Sequence[Any]) -> list[Any]:
    """Do a few items, in a worker."""
    return [_function(_shared, item) for item in items]
