"""Parts of benchmarks that go wrong, for processes that import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.harness.record import Record
from fastdeit.measured.rows import Row


def row(name: str) -> Row:
    """A row."""
    return Row(case="a part", name=name, unit="img/s", n=1, median=1, p20=1, p80=1)


def measure(record: Record, fault: str, place: Path | None = None) -> Any:
    """Measure one row, then do what `fault` says."""
    record.add([row(fault)])
    record.on_round()
    if fault == "exception":
        raise ZeroDivisionError("planted\nin two lines")
    if fault == "user":
        raise UserError("it does not fit. Found: 9. Take less.")
    if fault == "abort":
        os.abort()
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "exit":
        os._exit(3)
    if fault == "hang":
        if os.fork() == 0:  # a worker of its own
            time.sleep(100)
            os._exit(0)
        time.sleep(100)
    if fault == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(100)
    if place is not None:
        place.write_text(f"{sorted(os.sched_getaffinity(0))} {os.environ['OMP_NUM_THREADS']}")
    return {"said": fault}


def several(record: Record, items: tuple[str, ...], faulty: str, fault: str) -> None:
    """Measure items one after another; one of them goes wrong."""
    for item in items:
        record.begin(item)
        with record.part(item):
            if item == faulty:
                measure(record, fault)
            record.add([row(item)])


def start_method(record: Record) -> str | None:
    """How processes begin that are started in a part."""
    import multiprocessing

    del record
    return multiprocessing.get_start_method(allow_none=True)


def known_rows(record: Record) -> list[bool]:
    """Whether some rows are known, and how much time there is."""
    assert record.left_s is not None and 0 < record.left_s <= 50
    effort = record.effort(3, 0.5)
    assert effort.seconds is not None and effort.seconds <= 25
    return [record.known("a part", name) is not None for name in ("one", "two")]
