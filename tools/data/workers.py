"""Worker processes that keep the order, do not run ahead of their reader, and end with it.

Not concurrent.futures: its pool waits for ever for a worker that is killed while it sends a result,
and for some of its threads when a program is interrupted. Here every worker has a connection of its
own, so that its end is seen, and there is no thread and no lock on this side.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from fastdeit import UserError
from fastdeit.machine.threads import num_usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
"""Items a task: passing tasks costs little, and Ctrl-C ends soon."""
SPARE_FILES = 10
"""So many files a process may need besides those that are open, to start a worker and to write."""
TASKS_A_WORKER = 2
"""One that it does and one that waits for it."""


def num_workers(asked: int) -> int:
    """The number of processes for `--workers`; 0 takes every usable core, less is a UserError."""
    if asked < 0:
        raise UserError(f"workers must be 0 or more. Found: {asked}. Pass --workers 0.")
    return asked or num_usable_cores()


def in_chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """Cut work into tasks."""
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass(eq=False)
class _Worker:
    """A process, our end of its connection, and the tasks that it has."""

    process: BaseProcess
    connection: Connection[Any, Any]
    tasks: deque[int] = field(default_factory=deque)


def ordered_map(
    function: Callable[[Any, Item], Result],
    shared: Any,
    chunks: Iterable[Sequence[Item]],
    workers: int,
    on_end: Callable[[int], Result] | None = None,
) -> Generator[Result, None, None]:
    """Call `function(shared, item)` in worker processes and yield the results in order.

    The function is one of a module, so that it can be sent; `shared` is sent to each worker once.
    The chunks, a task each, are taken when they are needed. One worker works in this process. What
    a worker raises is raised here, and UserError if one ended, for lack of memory, say. With
    `on_end` what a worker had to do when it ended is done again, each item in a worker of its own;
    of an item that ends that one too the result is what `on_end` makes of the exit code. Closing
    the generator, or an exception in its reader, drops the work that waits.
    """
    if workers == 1:
        for chunk in chunks:
            for item in chunk:
                yield function(shared, item)
        return
    team: list[_Worker] = []
    given: dict[int, Sequence[Item]] = {}  # the tasks whose results are missing
    results: dict[int, Any] = {}
    tasks = enumerate(chunks)
    task = next(tasks, None)
    first = 0  # the task whose results come next
    try:
        while task is not None or first in results or any(worker.tasks for worker in team):
            # Not all at once: what a slow disk has not taken yet would fill the memory.
            while task is not None and task[0] < first + TASKS_A_WORKER * workers + 1:
                worker = min(team, key=lambda each: len(each.tasks), default=None)
                if (worker is None or worker.tasks) and len(team) < workers:
                    worker = _start(function, shared)
                    team.append(worker)
                if worker is None or len(worker.tasks) >= TASKS_A_WORKER:
                    break
                given[task[0]] = task[1]
                worker.tasks.append(task[0])
                _send(worker, task[1])
                task = next(tasks, None)
            if first in results:
                yield from _unpack(results.pop(first))
                first += 1
                continue
            for worker in _ready(team):
                answer = _receive(worker)
                if answer is None and on_end is None:
                    raise _ended(worker)
                if answer is None and on_end is not None:
                    team.remove(worker)
                    for lost in worker.tasks:
                        again = (_alone(function, shared, each, on_end) for each in given.pop(lost))
                        results[lost] = list(again), None
                    worker.tasks.clear()
                    worker.connection.close()
                    worker.process.join()
                    continue
                done = worker.tasks.popleft()
                results[done] = answer
                del given[done]
    finally:
        for worker in team:
            worker.connection.close()
            worker.process.kill()  # it keeps nothing that could be lost
        for worker in team:
            worker.process.join()


def _start(function: Callable[[Any, Any], Any], shared: Any) -> _Worker:
    """Start a worker, from a fork server: the caller may have threads (torch, a test runner)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = sum(1 for _ in Path("/proc/self/fd").iterdir())
    if limit != resource.RLIM_INFINITY and num_open + SPARE_FILES > limit:
        raise UserError(
            f"workers must be able to open files. Found: {num_open} of {limit} are open. Raise the "
            "limit (ulimit -n 4096), or pass a smaller --workers."
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])  # imported once, not once a worker
    # Ctrl-C goes to all processes of a terminal; these leave it to the parent from the beginning.
    # The tracker comes first: to start it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, function, shared), daemon=True)
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # so that the end of the worker is the end of the connection
    return _Worker(process, ours)


def _send(worker: _Worker, items: Sequence[Any]) -> None:
    """Give a task to a worker, which always takes it at once; that one has ended is seen later."""
    with suppress(OSError):
        worker.connection.send(items)


def _alone(
    function: Callable[[Any, Any], Any], shared: Any, item: Any, on_end: Callable[[int], Any]
) -> Any:
    """The result of an item in a worker of its own."""
    worker = _start(function, shared)
    try:
        _send(worker, [item])
        answer = _receive(worker)
        if answer is None:
            worker.process.join()
            return on_end(worker.process.exitcode or 0)
        return _unpack(answer)[0]
    finally:
        worker.connection.close()
        worker.process.kill()
        worker.process.join()


def _ready(team: list[_Worker]) -> list[_Worker]:
    """Wait for results; the workers that have some."""
    ready = wait([worker.connection for worker in team])
    return [worker for worker in team if worker.connection in ready]


def _receive(worker: _Worker) -> Any:
    """The results of a worker's oldest task, or what it raised; None if the worker ended."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def _ended(worker: _Worker) -> UserError:
    worker.process.join(1)
    return UserError(
        f"a worker process ended in the middle. Found: exit code {worker.process.exitcode}. The "
        "machine may be short of memory: pass a smaller --workers."
    )


def _unpack(answer: Any) -> list[Any]:
    """The results of a task; what the worker raised is raised here."""
    results, error = answer
    if error is not None:
        raise error
    return list(results)


def _work(
    connection: Connection[Any, Any], function: Callable[[Any, Any], Any], shared: Any
) -> None:
    """Do tasks until the connection ends, in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # if the server was there before us
    tasks: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()

    def take() -> None:
        try:
            while True:
                tasks.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent has no more work, or is no more

    # Tasks are taken while others are done: neither side ever waits for the other to read.
    threading.Thread(target=take, daemon=True).start()
    while True:
        answer: tuple[list[Any] | None, BaseException | None]
        try:
            answer = [function(shared, item) for item in tasks.get()], None
        except Exception as error:  # raised in the parent
            answer = None, _sendable(error)
        try:
            connection.send(answer)
        except OSError:
            os._exit(0)


def _sendable(error: Exception) -> Exception:
    """An exception that survives being sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
