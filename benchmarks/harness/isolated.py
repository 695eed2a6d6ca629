"""A part of a benchmark in a process of its own: what ends it ends nothing else.

A CUDA error stays in the process where it came, an abort or a hang takes one part and not the run.
Processes are forked from one that has imported what they need and touched no GPU, so that each
starts at once; one that is bound to some of the cores begins anew, since libraries count the cores
when they are imported.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, resource_tracker, set_start_method
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from fastdeit import UserError
from fastdeit.benchmarks.harness.record import DeviceLost, Event, Record, reason_of
from fastdeit.machine.threads import COUNTS
from fastdeit.measured.rows import Row

PRELOADED = "fastdeit.benchmarks.harness.preload"
GRACE_S = 3.0
"""For a process that is asked to end, before it is killed."""

Start = Literal["forkserver", "spawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Something to measure in a process of its own."""

    name: str
    work: str
    """"module:function", which is called with a `Record` and the options."""
    options: dict[str, Any] = field(default_factory=dict)
    """They go through a pipe."""
    cores: int | None = None
    """How many of our cores the process is bound to, from its beginning; None leaves it free."""
    items: tuple[str, ...] = ()
    """What it measures one after another, as `Record.begin` says. If the process is lost in one of
    them, another process goes on with the rest: it is passed as the option `items`."""


class PartFailed(Exception):
    """A part ended without its result."""

    def __init__(
        self, reason: str, is_told: bool = False, is_user: bool = False, is_late: bool = False
    ) -> None:
        """Say why; whether that was heard already, is a UserError's own text, or was the limit."""
        super().__init__(reason)
        self.is_told, self.is_user, self.is_late = is_told, is_user, is_late


def run_isolated(
    part: Part,
    hear: Callable[[Event], None],
    limit_s: float | None = None,
    seconds: float | None = None,
    known: Sequence[Row] = (),
    log: Path | None = None,
    start: Start = "forkserver",
) -> Any:
    """Do a part in a process of its own; returns what its function returned.

    Args:
        part: what.
        hear: is called with each event as it comes.
        limit_s: the process is ended after so many seconds; None sets no limit.
        seconds: how long it measures, as `Record` says.
        known: rows of an earlier run.
        log: a file that what the process prints is added to, tracebacks of a crash among it.
        start: how the process begins.

    Raises:
        PartFailed: it did not return: an exception, a signal, the limit.
    """
    begin_tracker()
    began, context = time.monotonic(), _context("spawn" if part.cores is not None else start)
    receiver, sender = Pipe(duplex=False)
    # Its other end closes with this process, however that ends.
    lifeline, held = Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(part, sender, lifeline, seconds, known, log), name=part.name
    )
    _start_on(process, part.cores)
    sender.close()
    lifeline.close()
    try:
        while True:
            left_s = None if limit_s is None else max(0.0, began + limit_s - time.monotonic())
            if not wait([receiver, process.sentinel], left_s):
                late = f"it was not done after {limit_s:.0f} s, its limit"
                raise PartFailed(late, is_late=True)
            if not receiver.poll():
                break  # it is gone, and all that it said was heard
            try:
                event = receiver.recv()
            except (EOFError, OSError):
                break
            if event.kind == "result":
                process.join(GRACE_S)
                return event.values[0]
            if event.kind == "error":
                process.join(GRACE_S)
                raise PartFailed(*event.values)
            hear(event)
        process.join(GRACE_S)
        raise PartFailed(_how_it_ended(process.exitcode))
    finally:
        _end(process)
        receiver.close()
        held.close()


def begin_tracker() -> None:
    """Start multiprocessing's cleaner, without its word about what it cleans.

    It removes what a part that was ended could not remove itself, which is no news to a user.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def call_here(part: Part, hear: Callable[[Event], None], **given: Any) -> Any:
    """The same in this process, for tests; an abort is one of all."""
    done = _done(part, Record(hear, given.get("seconds"), given.get("known", ())))
    if done.kind == "error":
        raise PartFailed(*done.values)
    return done.values[0]


def _context(start: Start) -> BaseContext:
    context = get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload([PRELOADED])
    return context


def _start_on(process: BaseProcess, cores: int | None) -> None:
    """Start a process on some of our cores, which it inherits, with no more threads than these."""
    ours, counts = os.sched_getaffinity(0), {name: os.environ.get(name, "") for name in COUNTS}
    counts = {name: count for name, count in counts.items() if count.isdigit()}
    if cores is not None:
        os.sched_setaffinity(0, sorted(ours)[:cores])
        os.environ.update({name: str(min(int(count), cores)) for name, count in counts.items()})
    # Inherited too: a Ctrl-C in the middle of the process's imports would be a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.sched_setaffinity(0, ours)
        os.environ.update(counts)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _end(process: BaseProcess) -> None:
    """Ask a process to end, then end it and all that it started."""
    pid = process.pid
    if pid is None:
        return
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        process.join(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # its group is its own
    if process.is_alive():
        process.kill()
        process.join(GRACE_S)


# ---- what the process does -----------------------------------------------------------------------
def _work(
    part: Part,
    sender: Connection,
    lifeline: Connection,
    seconds: float | None,
    known: Sequence[Row],
    log: Path | None,
) -> None:
    # A session of its own: a Ctrl-C is for the run, which hands it on once.
    os.setsid()
    # What libraries start in here begins as in any program, not as this process did.
    set_start_method(None, force=True)
    # The run's own way with SIGTERM came along with its main module.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    if log is not None:
        number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(number, 1)
        os.dup2(number, 2)
        os.close(number)
    faulthandler.enable()
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            sender.send(event)

    try:
        send(_done(part, Record(send, seconds, known)))
    except KeyboardInterrupt:
        os._exit(130)
    sender.close()


def _done(part: Part, record: Record) -> Event:
    """Do a part; its result, or why there is none."""
    items = {"items": part.items} if part.items else {}
    try:
        return Event("result", (_function(part.work)(record, **part.options, **items),))
    except DeviceLost:
        return Event("error", ("the device is lost", True))
    except UserError as error:
        return Event("error", (reason_of(error), False, True))
    except Exception as error:
        traceback.print_exc()
        return Event("error", (reason_of(error),))


def _function(work: str) -> Callable[..., Any]:
    module, _, name = work.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _end_with(lifeline: Connection) -> None:
    """End this process and all that it started when the run is gone."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    os.killpg(0, signal.SIGKILL)
