"""Training jobs as a user starts them, in one or two processes, to be stopped in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from forked import Forked

from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.tools.cli import main

TINY = (
    "--engine", "pil", "--threads", "1", "--batch-size", "63", "--epochs", "3",
    "--warmup-epochs", "1", "--log-every-steps", "2", "--model", "deit_tiny_patch16_224",
    "--patch-size", "16", "--embed-dim", "48", "--depth", "2", "--num-heads", "3",
    "--drop-path", "0.3", "--ema-decay", "0.9", "--save-minutes", "1e-6", "--resume", "auto",
)  # fmt: skip
"""A model that takes 4 steps an epoch on the small sample data, and saves every second one. The
batch has an odd number of images, so two processes have unequal shares."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
MIXED = ("--mixup-alpha", "0.8", "--cutmix-alpha", "1", "--auto-augment", "rand-m9-mstd0.5-inc1")


def run_here(containers: dict[str, Path], out: Path, *options: str) -> int:
    """The same in this process, mixed: 3 epochs of 4 steps, with 3 checkpoints kept."""
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    more = (*TINY, *MIXED, "--keep-checkpoints", "3", *options)
    return main(["train", "demo-teacher", *data, "--out", str(out), *more])


class Job:
    """One `fastdeit train`."""

    def __init__(
        self,
        containers: dict[str, Path],
        out: Path,
        *options: str,
        processes: int = 1,
        forked: bool = True,
        restarts: int = 0,
    ) -> None:
        """Start it.

        Args:
            containers: the data.
            out: the run's folder.
            options: more than `TINY`.
            processes: how many train together.
            forked: begin after the imports; otherwise as a user begins, several with torchrun.
            restarts: how often torchrun starts them again when one is lost.
        """
        data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
        line = ["train", "demo-teacher", *data, "--out", str(out), *TINY, *options]
        self.out = out
        self.process: Forked | subprocess.Popen[bytes]
        self._log = out.with_name(f"{out.name}-{time.monotonic_ns()}.log")
        self._log.touch()
        env = {**os.environ, **ONE_THREAD}
        if forked:
            self.process = Forked(line, env, self._log, self._log, processes)
            return
        program = ["-m", "fastdeit.tools.cli"]
        if processes > 1:
            each = ["--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
            program = ["-m", "torch.distributed.run", "--standalone", *each, *program]
        with self._log.open("ab") as log:
            command = [sys.executable, *program, *line]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env)

    def wait_for_step(self, step: int, timeout_s: float = 120) -> None:
        """Wait until the metrics have a row of this step or a later one."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self.process.poll() is None:
            if any(row["step"] >= step for row in rows_of(self.out)):
                return
            time.sleep(0.01)
        raise AssertionError(f"no step {step}:\n{self.text()}")

    def kill(self) -> None:
        """SIGKILL for every process of the job at once."""
        for process in (self.process.pid, *_below(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def rank(self, rank: int) -> int:
        """The process number of a rank; they are started in their order."""
        return _children(self.process.pid)[rank]

    def end(self, timeout_s: float = 180) -> int:
        """Wait for the end; return the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.text()}") from None

    def text(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")


def run_processes(
    processes: int, *line: str, folder: Path, timeout_s: float = 180
) -> tuple[int, str, str]:
    """Run a command of the program to its end, in processes that know each other.

    Args:
        processes: how many.
        *line: the command and its options.
        folder: for what they print.
        timeout_s: how long it may take.

    Returns:
        (exit code, stdout, stderr) of all of them.
    """
    out, err = (folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
    code = Forked([*line], {**os.environ, **ONE_THREAD}, out, err, processes).wait(timeout_s)
    return code, out.read_text(), err.read_text()


def _children(process: int) -> list[int]:
    """In the order of their starts."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == process:
                found.append((int(fields[19]), int(folder.name)))
    return [number for _, number in sorted(found)]


def _below(process: int) -> list[int]:
    return [each for child in _children(process) for each in (child, *_below(child))]


def checkpoints(out: Path) -> list[Path]:
    """Those of a run, the newest first."""
    return [out / "checkpoint.pt", *sorted(out.glob("checkpoint-step*"), reverse=True)]


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's metrics."""
    try:
        lines = (out / "metrics.jsonl").read_text().split("\n")
    except OSError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages and metrics of two runs are equal bit for bit."""
    first, second = (load_checkpoint(out / "checkpoint.pt") for out in (one, other))
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)
    keys = ("kind", "epoch", "step", "loss", "lr", "heads", "num_images")
    rows = [[[row.get(key) for key in keys] for row in rows_of(out)] for out in (one, other)]
    assert rows[0] == rows[1]


def in_session(session: int) -> list[str]:
    """The processes of a session, ended ones that nobody waited for left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(folder.name)
    return found


def with_variable(name: str, value: str) -> list[str]:
    """The processes that were started with an environment variable, ended ones left out."""
    wanted, found = f"{name}={value}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables:
            found.append(folder.name)
    return found
