"""The memory of a process and of all that it starts, as Linux says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PRIVATE = ("status", ("RssAnon:", "RssShmem:"))
"""Memory that is no file's."""
SHARED_ONCE = ("smaps_rollup", ("Pss:",))
"""All memory; what several processes share counts once."""


@dataclass(slots=True)
class Peak:
    """The most that was seen."""

    num_bytes: int = 0


@contextmanager
def peak_memory(pid: int, kind: tuple[str, tuple[str, ...]], every_s: float) -> Iterator[Peak]:
    """Watch a process and its descendants, all together, inside the block.

    Args:
        pid: of the process.
        kind: `PRIVATE` or `SHARED_ONCE`.
        every_s: seconds between two looks.
    """
    peak, done = Peak(), threading.Event()

    def look() -> None:
        total = sum(_memory(process, *kind) for process in _tree_of(pid))
        peak.num_bytes = max(peak.num_bytes, total)

    def watch() -> None:
        while not done.wait(every_s):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
        look()  # all may be over before the thread's first
    finally:
        done.set()
        thread.join()


def _tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        process = waiting.pop()
        found.append(process)
        with suppress(OSError):  # it ended
            for task in Path(f"/proc/{process}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return found


def _memory(pid: int, file: str, names: tuple[str, ...]) -> int:
    """Bytes of a process in some lines of a file of Linux's; 0 if it ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(names))
