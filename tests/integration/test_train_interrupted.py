"""Runs that are asked to stop at awkward moments, killed early, or begun in the wrong place."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs import MIXED, Job, assert_same_run, rows_of, run_here
from nightly import nightly, often

from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.training import loop as train_module
from fastdeit.training.session import Session

pytestmark = pytest.mark.slow
Hook = Callable[[Session], None]


def interrupt(session: Session) -> None:
    """What a kill leaves behind, nearly: nothing more is saved."""
    del session
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=nightly)]
)
def test_a_signal_saves(
    number: signal.Signals,
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The step is saved, with a code and a file to requeue on; it goes on exactly, and says so."""
    out = tmp_path / "run"
    at_step(5, lambda _: os.kill(os.getpid(), number))
    code = run_here(containers, out, "--save-minutes", "0")
    assert code == (130 if number == signal.SIGINT else 75)
    assert "fastdeit: stopped at epoch 2, step 5; --resume auto goes on" in capsys.readouterr().err
    assert load_checkpoint(out / "checkpoint.pt")["position"]["step"] == 5
    assert (out / "requeue").read_text() == "epoch 2, step 5\n"
    monkeypatch.undo()
    assert run_here(containers, out, "--save-minutes", "0") == 0
    assert "goes on from checkpoint.pt: epoch 2, step 5" in capsys.readouterr().err
    assert not (out / "requeue").exists()
    assert_same_run(out, whole_run)


def test_ctrl_c_twice(
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second one, a while later, ends in the middle of the step; nothing saved is lost."""
    out = tmp_path / "run"

    def press(session: Session) -> None:
        del session
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher's, at once: not meant
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it should have ended")

    at_step(5, press)
    assert run_here(containers, out) == 130
    said = capsys.readouterr().err
    assert said.count("saving after this step; once more ends at once") == 1
    assert said.endswith("fastdeit: interrupted\n")
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 4
    monkeypatch.undo()
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def test_sigterm_while_evaluating(
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The evaluation is done again, of the model and of the average, and nothing twice."""
    out = tmp_path / "run"
    stop_in_evaluation(monkeypatch, 2)
    assert run_here(containers, out) == 75
    assert "stopped at epoch 2, step 8; --resume auto goes on" in capsys.readouterr().err
    position = load_checkpoint(out / "checkpoint.pt")["position"]
    assert (position["epoch"], position["step_in_epoch"]) == (1, 4)
    monkeypatch.undo()
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def test_ctrl_c_while_starting(
    whole_run: Path, containers: dict[str, Path], tmp_path: Path
) -> None:
    """From the program's first moment: one line, and a later start begins the run."""
    out = tmp_path / "run"
    delays = [5 * number / often(2, 20) for number in range(often(2, 20))]
    for delay in delays:
        job = Job(containers, out, *MIXED, forked=False)
        status = Path(f"/proc/{job.process.pid}/status")
        end = time.monotonic() + 60
        while not _catches(status, signal.SIGTERM) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay)
        job.process.send_signal(signal.SIGINT)
        assert job.end(60) == 130, job.text()
        assert "Traceback" not in job.text()
        assert "fastdeit: interrupted" in job.text() or "fastdeit: stopped at" in job.text()
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def _catches(status: Path, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_killed_before_the_first_checkpoint(
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows without a checkpoint are those of a run that begins again, half a row among them."""
    out = tmp_path / "run"
    at_step(4, interrupt)
    assert run_here(containers, out, "--save-minutes", "0") == 130
    monkeypatch.undo()
    assert [row["step"] for row in rows_of(out)] == [2]
    assert not list(out.glob("*.pt"))
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "tr\xff')
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def test_rows_that_are_no_text(
    half_run: Path, whole_run: Path, containers: dict[str, Path], tmp_path: Path
) -> None:
    """What a power cut leaves at the end of the metrics does not stop a run from going on."""
    out = Path(shutil.copytree(half_run, tmp_path / "run"))
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\xff\xfe")
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def test_a_trace_of_steps(whole_run: Path, containers: dict[str, Path], tmp_path: Path) -> None:
    """--profile-steps shows the parts of so many steps, and changes no bit of the run."""
    out = tmp_path / "run"
    assert run_here(containers, out, "--profile-steps", "2") == 0
    with gzip.open(out / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    seen = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert [seen[part] for part in ("forward", "backward", "optimizer", "average")] == [2] * 4
    assert_same_run(out, whole_run)


def test_curves_of_a_run_that_goes_on(
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorBoard shows each step once: those of metrics.jsonl, whatever was done twice."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    more = ("--tensorboard", "--save-minutes", "0")
    at_step(7, interrupt)  # a row of step 6 is there, and a checkpoint of step 4
    assert run_here(containers, out, *more) == 130
    monkeypatch.undo()
    stop_in_evaluation(monkeypatch, 1)
    assert run_here(containers, out, *more) == 75  # all steps of the second epoch are done
    monkeypatch.undo()
    monkeypatch.setattr(train_module.CheckpointStore, "save", interrupt_save)
    assert run_here(containers, out, *more) == 130  # evaluated, and not saved
    monkeypatch.undo()
    assert run_here(containers, out, *more) == 0
    events = accumulator.EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    for kind, tag in (("train", "train/loss"), ("eval", "eval/class/top1_pct")):
        steps = [row["step"] for row in rows_of(out) if row["kind"] == kind]
        assert [event.step for event in events.Scalars(tag)] == steps, tag


def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send SIGTERM at an evaluation, counted from 1."""
    real, calls = train_module.evaluate_all, 0

    def evaluate(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(train_module, "evaluate_all", evaluate)


def interrupt_save(*args: object) -> None:
    """A kill at a save."""
    del args
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=nightly)])
def test_a_signal_while_starting(
    number: signal.Signals, containers: dict[str, Path], tmp_path: Path
) -> None:
    """There is nothing to save yet: it ends at once with the code and the file to requeue on."""
    out = tmp_path / "run"
    job = Job(containers, out, forked=False)
    status = Path(f"/proc/{job.process.pid}/status")
    end = time.monotonic() + 60
    while not _catches(status, signal.SIGUSR1) and time.monotonic() < end:
        time.sleep(0.01)
    job.process.send_signal(number)
    assert job.end(60) == 75, job.text()
    assert "fastdeit: stopped at its start; --resume auto goes on" in job.text()
    assert (out / "requeue").read_text() == "its start\n"


def test_one_run_at_a_time(
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second run in the folder is refused while the first one writes, and touches nothing."""
    out = tmp_path / "run"
    codes = []

    def start_another(session: Session) -> None:
        del session
        before = (out / "metrics.jsonl").read_bytes()
        monkeypatch.undo()
        codes.extend(run_here(containers, out, "--resume", way) for way in ("auto", "never"))
        codes.append(run_here(containers, out, "--resume", "never", "--overwrite"))
        assert (out / "metrics.jsonl").read_bytes() == before

    at_step(6, start_another)
    assert run_here(containers, out) == 0
    assert codes == [2, 2, 2]
    said = capsys.readouterr().err
    assert said.count(f"Found: process {os.getpid()} on ") == 3
    assert max(row["step"] for row in rows_of(out)) == 12


# ---- the wrong place ---------------------------------------------------------------------------


def test_places_that_cannot_be(
    containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file as --out, a folder in a file, and what to begin from that is not there: one line."""
    file = tmp_path / "checkpoint.pt"
    file.write_text("precious")
    gone = str(tmp_path / "gone.pt")
    teaching = ("--distillation", "hard", "--model", "deit_tiny_distilled_patch16_224")
    for out, options, text in (
        (file, (), f"out must be a folder. Found: the file {file}. Give another --out."),
        (file / "run", (), f"{file}/run: Not a directory"),
        (Path("/proc/no/run"), (), "/proc/no: No such file or directory"),
        (tmp_path / "run", ("--init-from", gone), f"checkpoint is not a file. Found: {gone}."),
        (tmp_path / "run", (*teaching, "--teacher", gone), f"is not a file. Found: {gone}."),
    ):
        assert run_here(containers, out, *options) == 2, text
        said = capsys.readouterr().err
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("fastdeit: error: ")]
        assert text in line
    assert file.read_text() == "precious"
    assert not (tmp_path / "run").exists()


def test_what_a_run_began_from_may_vanish(
    half_run: Path, whole_run: Path, containers: dict[str, Path], tmp_path: Path
) -> None:
    """A run that goes on needs its own checkpoint only, not the one that it began from."""
    out = Path(shutil.copytree(half_run, tmp_path / "run"))
    assert run_here(containers, out, "--init-from", str(tmp_path / "gone.pt")) == 0
    assert_same_run(out, whole_run)


def test_a_folder_that_cannot_be_written(containers: dict[str, Path], tmp_path: Path) -> None:
    """A read-only disk, seen by a process with mounts of its own: one line names the folder."""
    script = f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec "$@"'
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    line = ["-m", "fastdeit.tools.cli", "train", "demo-teacher", *data, "--engine", "pil"]
    inside = [sys.executable, *line, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *inside],
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"a read-only disk cannot be made: {done.stderr.strip()}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"fastdeit: error: {tmp_path}/run: Read-only file system. What existed is as it was."
    )
