"""Runs of the program that are forked from a process which has imported everything.

A start of the program is some five seconds of imports; a fork of one that has done them is none.
The child is the program in all else: its own signals, environment, files and end.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing.util
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    "fastdeit.pipelines.engines.pil_engine",
    "fastdeit.training.telemetry",
    "fastdeit.tools.evaluate.command",
    "fastdeit.tools.train.command",
    "fastdeit.tools.evaluate.validation",
    "fastdeit.training.loop",
    "matplotlib.figure",
)


GRACE_S = 3
"""For the processes of a run of which one has failed, before they are killed; torchrun's is 30."""


class Forked:
    """A run that was forked, with what is used of `subprocess.Popen`."""

    def __init__(
        self, line: list[str], env: dict[str, str], out: Path, err: Path, processes: int = 1
    ) -> None:
        """Start it.

        Args:
            line: the program's arguments.
            env: its environment; more than one process get torchrun's variables too.
            out: a file that stdout is added to.
            err: a file that stderr is added to; it may be the same.
            processes: how many; more than one are started as torchrun does, by a process that ends
                the others when one has failed.
        """
        request = {"line": line, "env": env, "files": [str(out), str(err)], "processes": processes}
        self.pid = int(_ask(request))
        self._watch = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._wait(0)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code."""
        code = self._wait(timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired("fastdeit", timeout_s or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._watch], [], [], timeout_s)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(_ask({"ended": self.pid})))
            os.close(self._watch)
        return self.returncode


@functools.cache
def _server() -> subprocess.Popen[str]:
    # Its number of threads is read when it imports torch.
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.communicate)  # it ends with its stdin
    return server


def _ask(request: dict[str, object]) -> str:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


def serve() -> None:
    """Fork what stdin asks for; the child returns from here and is the run."""
    for module in IMPORTED:
        __import__(module)
    # What numba loads with the first compiled function, 0.4 s of each run; it starts no thread.
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "ended" in request:
            print(os.waitpid(request["ended"], 0)[1], flush=True)  # noqa: T201
            continue
        pid = os.fork()
        if pid == 0:
            return become(**request)
        print(pid, flush=True)  # noqa: T201


def become(line: list[str], env: dict[str, str], files: list[str], processes: int) -> None:
    """Make this process the run, or what starts several of them."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), target)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["fastdeit", *line]
    multiprocessing.util.spawnv_passfds = fork_server
    if processes > 1:
        launch(processes)


def fork_server(path: str, args: list[str], descriptors: list[int]) -> int:
    """What multiprocessing starts as `python -c CODE`: its servers, whose imports are done here."""
    del path
    pid = os.fork()
    if pid:
        return pid
    # Nothing else is inherited: who talks to the run must see when it is gone.
    for each in {int(file.name) for file in Path("/proc/self/fd").iterdir()} - {
        0,
        1,
        2,
        *descriptors,
    }:
        with contextlib.suppress(OSError):
            os.close(each)
    try:
        exec(args[-1])
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as Python's own end would
    os._exit(1)


def launch(processes: int) -> None:
    """Do what torchrun does: each child returns; this process ends when all have."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ.update(shared, TORCHELASTIC_USE_AGENT_STORE="True", **sizes)
    ranks = []
    for rank in map(str, range(processes)):
        pid = os.fork()
        if pid == 0:
            os.environ.update(RANK=rank, LOCAL_RANK=rank)
            return
        ranks.append(pid)
    end_as(ranks, port)


def end_as(ranks: list[int], port: int) -> NoReturn:
    """Keep the store of the processes, wait for them, and end: with 1 if one failed."""
    from torch.distributed import TCPStore

    # Made after the forks, for it has threads.
    _store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    failed = False

    def kill(*_: object) -> None:
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    while ranks:
        pid, status = os.wait()
        ranks.remove(pid)
        if status and not failed:
            failed = True
            for other in ranks:
                os.kill(other, signal.SIGTERM)
            signal.alarm(GRACE_S)
    os._exit(int(failed))


if __name__ == "__main__":
    serve()
    if len(sys.argv) > 1:
        from fastdeit.tools.cli import main

        sys.exit(main())
