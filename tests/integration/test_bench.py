"""`fastdeit bench all`: every benchmark beside its baseline and bound, in a given time."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import with_variable
from nightly import nightly

from fastdeit import UserError
from fastdeit.benchmarks.cases import suite as suite_module
from fastdeit.benchmarks.cases.convert import fewer_images
from fastdeit.benchmarks.cases.step_bench import STEPS
from fastdeit.benchmarks.harness.clock import process_age_s
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.machine.threads import num_usable_cores
from fastdeit.measured.rows import ROWS, Row, read_rows
from fastdeit.models.flops import MATRIX_SIDE
from fastdeit.tools.cli import main

HELPERS = Path(__file__).parent.parent / "helpers"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices, few steps, few photographs."""
    monkeypatch.setitem(STEPS, "cpu", 2)
    monkeypatch.setitem(MATRIX_SIDE, "cpu", 512)
    monkeypatch.setitem(suite_module.PHOTOGRAPHS, "cpu", (128, 256))


@pytest.mark.slow
@pytest.mark.usefixtures("small", "parts_here")
@pytest.mark.parametrize(
    ("within_s", "options"),
    [(10, ("--only", "ceilings,step")), pytest.param(60, (), marks=nightly)],
)
def test_everything(
    within_s: int, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows have baseline, ratio and bound; files and JSON hold the same; no data is needed."""
    # The time counts from the beginning of the process.
    out, begun = tmp_path / "bench", time.monotonic() - process_age_s()
    line = ["bench", "all", "--within", f"{within_s / 60}m", "--device", "cpu", "--out", str(out)]
    assert main([*line, *options]) == 0
    took_s = time.monotonic() - begun
    captured = capsys.readouterr()
    least = f" s, not {within_s} s: the least that is measured"
    assert (least in captured.err) == (took_s > within_s)
    printed = json.loads(captured.out.splitlines()[-1])
    rows = [kept.row for kept in read_rows(out / ROWS)]
    assert [row.name for row in rows] == [row["name"] for row in printed["rows"]]
    families = {row.family for row in rows}
    by_name = {row.name: row for row in rows if row.case != "loaders, 1 core"}
    if options:
        assert families == set(options[1].split(","))
    else:
        if "table5" in families:
            families.remove("table5")
            assert (out / "figure1.png").exists()
        else:  # the machine is slow
            assert any("rows of table5" in what for what in printed["left_out"])
        assert families == {"ceilings", "loaders", "augment", "step", "end-to-end", "convert"}
        assert by_name["fastdeit pil"].ratios["DeiT's own (timm transform, torch DataLoader)"] > 0
        for name in ("Rotate", "rand-m9-mstd0.5-inc1"):
            augmented = by_name[f"fastdeit: {name}"]
            assert list(augmented.ratios) == [f"timm on PIL: {name}"]
            assert augmented.ratio == augmented.ratios[str(augmented.baseline)]
        stage = by_name["fastdeit: the whole stage"]
        assert str(stage.bound_what).startswith("reading uint8, writing float32: ")
    step = by_name["fastdeit step"]
    assert list(step.phases_ms)[:4] == ["data wait", "augmentation", "forward", "backward"]
    # Parts one after another take about as long as the step, whose parts overlap on a GPU only.
    assert step.step_ms is not None
    assert 0.3 < sum(step.phases_ms.values()) / step.step_ms < 3
    for row in rows:
        assert row.median > 0
        assert captured.err.count(f"{row.case}: {row.name}: ") == 1
        if row.frac_of_bound is not None:
            # Few noisy rounds: the bound itself was measured in them.
            assert row.frac_of_bound < 1.5, row
    assert "\n# Measured so far\n" in (out / "report.md").read_text()
    for family in families:
        assert (out / f"{family}.png").read_bytes()[:4] == b"\x89PNG"
    assert "the published DeiT loop" in captured.err


def test_the_age_of_a_process() -> None:
    """It grows as time does, and Python has just been started."""
    code = "from fastdeit.benchmarks.harness.clock import process_age_s as age; import time;"
    code += "a = age(); time.sleep(0.5); print(a, age())"
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took_s = time.perf_counter() - begun
    first, second = map(float, done.stdout.split())
    assert 0 < first < second <= took_s + 0.1
    assert second - first == pytest.approx(0.5, abs=0.3)


def test_fewer_images(tmp_path: Path) -> None:
    """At least one of each class; nothing of the source changes, nothing is left."""
    for number in range(12):
        place = tmp_path / "source" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(b"x")
    for wanted, each in ((6, 2), (0, 1), (100, 4)):
        with fewer_images(tmp_path / "source", wanted) as few:
            assert [len(list(folder.iterdir())) for folder in sorted(few.iterdir())] == [each] * 3
        assert list(tmp_path.iterdir()) == [tmp_path / "source"]
    assert len(list((tmp_path / "source").rglob("*.jpg"))) == 12


def row(case: str, name: str, **changes: Any) -> Row:
    """A row."""
    return Row(case=case, name=name, unit="img/s", n=1, median=1, p20=1, p80=1, **changes)


@pytest.mark.usefixtures("parts_here")
def test_rows_are_kept_as_they_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of others stay, older ones of the same are replaced, also if a run is killed."""
    with BenchRun(tmp_path) as run:
        run.add([row("memory of a rank", "one"), row("b", "one")])
        run.end()
    assert {file.name for file in tmp_path.glob("*.png")} == {"memory-of-a-rank.png", "b.png"}
    with BenchRun(tmp_path) as run, pytest.raises(KeyboardInterrupt):
        run.add([row("b", "one", note="again"), row("b", "two")])
        raise KeyboardInterrupt
    found = [(kept.row.case, kept.row.name, kept.row.note) for kept in read_rows(tmp_path / ROWS)]
    others = ("memory of a rank", "one", None)
    assert found == [others, ("b", "one", "again"), ("b", "two", None)]
    with BenchRun(tmp_path) as run:
        known = Record(run.hear, known=run._known).known
        assert known("b", "two") is not None
        assert known("b", "two", batch=2) is None
        assert known("c", "two") is None
    other = {"cpu": "another", "gpu": None}
    monkeypatch.setattr("fastdeit.measured.environment.describe_environment", lambda: other)
    with BenchRun(tmp_path) as run:
        assert run._known == []
    capsys.readouterr()


@pytest.mark.usefixtures("parts_here")
def test_the_folder_of_rows(tmp_path: Path) -> None:
    """bench-DATE unless given; a folder that holds something else is left alone."""
    with BenchRun(None) as run:
        run.add([row("b", "one")])
    (made,) = tmp_path.glob("bench-*")
    assert made.name == f"bench-{datetime.date.today().isoformat()}"
    assert (made / ROWS).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"out must be a new or empty folder"):
        BenchRun(tmp_path / "mine")
    with BenchRun(made), pytest.raises(UserError, match=r"one run at a time .* Wait for its end"):
        BenchRun(made)
    with BenchRun(made) as run:
        assert len(run._before) == 1
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "all --within soon",
            "within must be a duration in days, hours and minutes. Found: 'soon'",
        ),
        ("all --source x", "source has no effect without the dataset of its images. Found: x."),
        ("all --threads -1", "threads must be at least 0. Found: -1."),
        ("all --device cuda:99", "device cuda:99 is not there."),
        ("all --only steps", "only must name what is measured. Found: steps. Known: ceilings, "),
        ("all --skip loaders,x", "skip must name what is measured. Found: x. Known: ceilings, "),
        ("all --only step --skip step", "something must be left to measure. Found: --skip step."),
        ("all --device cpu --only variants", "Found: variants, of which there is nothing on this"),
        ("all --device cpu --save-compiled", "save_compiled has no effect in `bench all` on a CPU"),
        ("loaders --data {beton} --source x --no-peers", "source has no effect with --no-peers."),
        ("loaders --data {beton} --source none", "Found: none"),
        ("end-to-end --data {beton} --source none", "Found: none"),
        ("all --within 1m --data none.beton", "dataset does not exist. Found: nothing at none."),
    ],
)
@pytest.mark.usefixtures("parts_here")
def test_wrong_lines(
    line: str,
    text: str,
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be is one line."""
    assert main(["bench", *line.format(beton=containers["beton"]).split()]) == 2
    captured = capsys.readouterr()
    (error,) = [line for line in captured.err.splitlines() if line.startswith("fastdeit: error: ")]
    assert text in error
    assert captured.out == ""
    assert list(tmp_path.glob("bench-*")) == []  # nothing is left of what was refused


@pytest.mark.slow
@nightly  # test_isolated.py has a signal in a run of small parts
@pytest.mark.parametrize("reaches_all", [True, False])
def test_ctrl_c(reaches_all: bool, tmp_path: Path) -> None:
    """What was measured is kept; pictures and processes are gone; there is no traceback."""
    out = tmp_path / "bench"
    line = ["bench", "all", "--within", "1m", "--device", "cpu", "--out", str(out)]
    line += ["--only", "ceilings,loaders"]
    program = subprocess.Popen(
        [sys.executable, "-m", "fastdeit.tools.cli", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with program:
        end = time.monotonic() + 100
        while not list(tmp_path.glob("fastdeit-bench-*/photographs.beton")):
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(3)  # in the loaders, whose processes are others
        assert len(with_variable("TMPDIR", str(tmp_path))) > 1
        (os.killpg if reaches_all else os.kill)(program.pid, signal.SIGINT)
        printed, error = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Traceback" not in error and error.endswith("fastdeit: interrupted\n")
    assert "not measured: loaders, 1 core: SIGINT came" in error
    assert {kept.row.family for kept in read_rows(out / ROWS)} == {"ceilings"}
    facts = json.loads(printed.splitlines()[-1])
    assert facts["ended_by"] == "SIGINT"
    assert {row["case"] for row in facts["rows"]} == {"ceilings"}
    assert (out / "report.md").exists()
    assert list(tmp_path.glob("fastdeit-bench-*")) == []
    deadline = time.monotonic() + 10
    while with_variable("TMPDIR", str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert with_variable("TMPDIR", str(tmp_path)) == []


@nightly  # test_isolated.py has each fault in a run of small parts
@pytest.mark.slow
def test_planted_faults(tmp_path: Path) -> None:
    """An exception in one part, an abort in another, SIGTERM in a third: the others have rows."""
    planted = " ".join(
        (
            "fastdeit.benchmarks.cases.augment_pairs:photographs:exception",
            "fastdeit.benchmarks.cases.loaders:measure_loaders:abort",
            "fastdeit.benchmarks.cases.convert:measure_convert:sigterm",
        )
    )
    out = tmp_path / "bench"
    line = ["bench", "all", "--within", "0.1m", "--device", "cpu", "--out", str(out), "--no-peers"]
    done = subprocess.run(
        [sys.executable, "-m", "fastdeit.tools.cli", *line, "--skip", "table5,end-to-end"],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": str(HELPERS / "planted"),
            "FASTDEIT_TEST_PLANTED": planted,
        },
    )
    assert done.returncode == 1
    facts = json.loads(done.stdout.splitlines()[-1])
    assert {row["case"].split(":")[0] for row in facts["rows"]} == {"ceilings", "step"}
    assert facts["ended_by"] is None
    log = out / "bench-log.txt"
    by_sigabrt, by_sigterm = (
        f"its process was ended by {name} ({log})" for name in ("SIGABRT", "SIGTERM")
    )
    cores = sorted({1, num_usable_cores()})
    assert facts["failed"] == {
        "augment, batch 64": f"ZeroDivisionError: planted ({log})",
        **{f"loaders, {n} core" + "s" * (n > 1): by_sigabrt for n in cores},
        "convert": by_sigterm,
    }
    for name in facts["failed"]:
        assert done.stderr.count(f"not measured: {name}: ") == 1
    text = log.read_text()
    assert "in measure_augment" in text and "Fatal Python error: Aborted" in text
    assert {kept.row.family for kept in read_rows(out / ROWS)} == {"ceilings", "step"}
    assert (out / "report.md").exists() and (out / "step.png").exists()
