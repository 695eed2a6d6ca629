"""Makes the pictures of the sample data in worker processes and returns them in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor

from fastdeit.tools.sample_data.scenes import Picture, make_picture

CHUNK = 16
"""Pictures a task: about 0.1 s, so that passing tasks costs little and Ctrl-C ends soon."""


def make_pictures(
    seed: int, pictures: list[Picture], num_workers: int
) -> Generator[bytes, None, None]:
    """Make the files of `pictures`, in their order.

    Args:
        seed: the source's seed.
        pictures: which to make.
        num_workers: processes; one works in this process.

    Yields:
        The bytes of one file after the other. An exception in a worker is raised here.
    """
    if num_workers == 1:
        for picture in pictures:
            yield make_picture(seed, picture)
        return
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    # Spawned, not forked: the caller may have threads (torch, a test runner).
    context = multiprocessing.get_context("spawn")
    num_workers = min(num_workers, len(chunks))
    pool = ProcessPoolExecutor(num_workers, context, initializer=prepare_worker)
    waiting: deque[Future[list[bytes]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(make_chunk, seed, chunk))
            # Not all at once: what a slow disk has not taken yet would fill the memory.
            if len(waiting) >= 4 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def make_chunk(seed: int, pictures: list[Picture]) -> list[bytes]:
    """Make the files of a few pictures, in a worker."""
    return [make_picture(seed, picture) for picture in pictures]


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    # Without this the workers of a killed parent wait for tasks forever.
    threading.Thread(target=end_with_parent, daemon=True).start()
