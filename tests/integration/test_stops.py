"""Runs that are stopped: killed, asked to stop, disturbed; in one process and in two."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from jobs import MIXED, Job, assert_same_run, rows_of
from nightly import nightly, often

from fastdeit.checkpoints.file import load_checkpoint

pytestmark = pytest.mark.slow
KILLS = often(2, 20)
"""How often a run is killed in a test; more take longer and prove more."""
RUN = (*MIXED, "--epochs", str(max(3, KILLS)))


@pytest.fixture(scope="module", params=[1, 2])
def whole(
    request: pytest.FixtureRequest,
    containers: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[int, Path]:
    """A number of processes, and a run of so many that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    job = Job(containers, out, *RUN, processes=request.param)
    assert job.end() == 0, job.text()
    return request.param, out


def test_a_killed_run_goes_on(
    whole: tuple[int, Path], containers: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL at random moments: the end is that of the run that nobody stopped, bit for bit."""
    processes, expected = whole
    out = tmp_path / "run"
    moments = random.Random(processes)
    for _ in range(KILLS):
        job = Job(containers, out, *RUN, processes=processes)
        if moments.random() < 0.8:  # otherwise while it starts
            done = max((row["step"] for row in rows_of(out)), default=0)
            job.wait_for_step(done + moments.choice((1, 2, 3)))
            time.sleep(moments.random() * 0.3)
        else:
            time.sleep(moments.random())
        assert job.process.poll() is None, job.text()
        job.kill()
    job = Job(containers, out, *RUN, processes=processes)
    assert job.end() == 0, job.text()
    assert_same_run(out, expected)


def test_a_signal_to_one_process_stops_all(
    whole: tuple[int, Path], containers: dict[str, Path], tmp_path: Path
) -> None:
    """All save the same step, say so once, and go on exactly."""
    processes, expected = whole
    if processes == 1:
        pytest.skip("test_train_interrupted.py has it for one process")
    out = tmp_path / "run"
    # Nothing else is saved within an epoch, and rows are rarer than steps.
    more = ("--save-minutes", "0", "--log-every-steps", "3")
    job = Job(containers, out, *MIXED, *more, processes=2)
    job.wait_for_step(3)
    os.kill(job.rank(1), signal.SIGUSR1)
    assert job.end() != 0
    assert job.text().count("fastdeit: stopped at epoch ") == 1
    position = load_checkpoint(out / "checkpoint.pt")["position"]
    assert 3 < position["step"] < 12
    assert f"step {position['step']}" in (out / "requeue").read_text()
    job = Job(containers, out, *MIXED, *more, processes=2)
    assert job.end() == 0, job.text()
    for part in ("model", "ema"):
        first, second = (load_checkpoint(o / "checkpoint.pt")[part] for o in (out, expected))
        assert all(bool((first[name] == second[name]).all()) for name in first)
    assert [row["step"] for row in rows_of(out) if row["kind"] == "train"] == [3, 4, 6, 8, 9, 12]


def test_two_processes_train_as_one(containers: dict[str, Path], tmp_path: Path) -> None:
    """Without mixing partners, two processes with unequal shares do what one does.

    What two began, one ends in the same way; and parts of a share are as good as the whole.
    """
    one, two, both = tmp_path / "one", tmp_path / "two", tmp_path / "both"
    more = ("--drop-path", "0", "--optimizer", "sgd", "--base-lr", "0.02")
    assert Job(containers, one, *more).end() == 0
    job = Job(containers, two, *more, "--accumulate", "2", processes=2)
    assert job.end() == 0, job.text()
    job = Job(containers, both, *more, processes=2)
    job.wait_for_step(4)
    job.kill()
    seen = load_checkpoint(both / "checkpoint.pt")["position"]["step"]
    assert 0 < seen < 12
    assert Job(containers, both, *more).end() == 0
    expected = load_checkpoint(one / "checkpoint.pt")["model"]
    for out in (two, both):
        losses = [[r["loss"] for r in rows_of(o) if r["kind"] == "train"] for o in (one, out)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        for name, value in load_checkpoint(out / "checkpoint.pt")["model"].items():
            near = 1e-4 * float(expected[name].abs().max())
            assert value.allclose(expected[name], rtol=0, atol=near), name
        counts = [row["num_images"] for row in rows_of(out) if row["kind"] == "eval"]
        assert counts == [40, 40, 40]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=nightly)])
def test_a_lost_process_ends_the_job(
    number: signal.Signals, containers: dict[str, Path], tmp_path: Path
) -> None:
    """Killed or frozen: the others say whom they lost; what was saved is there, and goes on."""
    out = tmp_path / "run"
    more = ("--epochs", "200", "--timeout-minutes", "0.1")
    job = Job(containers, out, *more, processes=2)
    job.wait_for_step(4)
    lost = job.rank(1)
    os.kill(lost, number)
    assert job.end(90) != 0
    assert "process 0 lost another one. Found: no answer of process 1, last heard at" in job.text()
    assert load_checkpoint(out / "checkpoint.pt")["position"]["step"] >= 2


def test_torchrun_starts_a_job_again(
    whole: tuple[int, Path], containers: dict[str, Path], tmp_path: Path
) -> None:
    """With --max-restarts a killed process costs a restart; the end is the same, bit for bit."""
    processes, expected = whole
    if processes == 1:
        pytest.skip("one process is not started by torchrun")
    job = Job(containers, tmp_path / "run", *MIXED, processes=2, forked=False, restarts=1)
    job.wait_for_step(6)
    os.kill(job.rank(1), signal.SIGKILL)
    assert job.end() == 0, job.text()
    assert_same_run(tmp_path / "run", expected)
