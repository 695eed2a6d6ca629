"""A part in a process of its own: whatever becomes of it, the run hears of it and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import bench_tasks
import pytest
from jobs import with_variable
from nightly import nightly

from fastdeit.benchmarks.harness.isolated import (
    Part,
    PartFailed,
    begin_tracker,
    call_here,
    run_isolated,
)
from fastdeit.benchmarks.harness.record import Event
from fastdeit.benchmarks.harness.run import LOG, BenchRun

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture(autouse=True)
def helpers_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes import the tests' helpers too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(bench_tasks.__file__).parent), prepend=os.pathsep)


def part(fault: str, **options: Any) -> Part:
    """A part that goes wrong."""
    return Part(name=fault, work="bench_tasks:measure", options={"fault": fault, **options})


@pytest.mark.parametrize(
    ("fault", "reason", "in_log"),
    [
        ("exception", "ZeroDivisionError: planted in two lines", "in measure\n    raise Zero"),
        ("user", "it does not fit. Found: 9. Take less.", ""),
        ("abort", "its process was ended by SIGABRT", "Fatal Python error: Aborted"),
        ("segfault", "its process was ended by SIGSEGV", "Fatal Python error: Segmentation"),
        ("sigterm", "its process was ended by SIGTERM", ""),
        ("exit", "its process ended with exit code 3", ""),
    ],
)
def test_how_a_part_ends(fault: str, reason: str, in_log: str, tmp_path: Path) -> None:
    """Its rows were heard before, the reason is one line, a traceback is in the log."""
    heard: list[Event] = []
    log = tmp_path / "log"
    with pytest.raises(PartFailed) as failed:
        run_isolated(part(fault), heard.append, log=log)
    assert str(failed.value) == reason
    assert failed.value.is_user == (fault == "user")
    assert [event.kind for event in heard] == ["rows", "round"]
    assert heard[0].values[0][0].name == fault
    text = log.read_text()
    assert in_log in text and (in_log or not text)


def test_a_part_that_ends_well(tmp_path: Path) -> None:
    """Its result comes back; bound to cores, it has them and no more threads from the beginning."""
    count = os.environ["OMP_NUM_THREADS"]
    for cores in (None, 1):
        place = tmp_path / str(cores)
        task = Part(
            name="well",
            work="bench_tasks:measure",
            options={"fault": "none", "place": place},
            cores=cores,
        )
        assert run_isolated(task, lambda _: None) == {"said": "none"}
        ours = sorted(os.sched_getaffinity(0))
        expected = f"{ours} {count}" if cores is None else f"{ours[:1]} 1"
        assert place.read_text() == expected
        assert os.environ["OMP_NUM_THREADS"] == count


@pytest.mark.parametrize("fault", [pytest.param("hang", marks=nightly), "deaf"])
def test_a_part_that_does_not_end(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended at its limit, with what it started, whether it listens or not."""
    monkeypatch.setattr("fastdeit.benchmarks.harness.isolated.GRACE_S", 0.5)
    begin_tracker()  # which outlives the parts
    # Started anew, so that it can be told from other tests' processes.
    monkeypatch.setenv("FASTDEIT_TEST_HANG", str(os.getpid()))
    began = time.monotonic()
    with pytest.raises(PartFailed, match=r"it was not done after 8 s, its limit") as failed:
        run_isolated(part(fault), lambda _: None, limit_s=8, start="spawn")
    assert failed.value.is_late
    assert time.monotonic() - began < 30  # not the 100 s of its sleep
    end = time.monotonic() + 5
    while with_variable("FASTDEIT_TEST_HANG", str(os.getpid())) and time.monotonic() < end:
        time.sleep(0.1)
    assert with_variable("FASTDEIT_TEST_HANG", str(os.getpid())) == []


def test_a_part_ends_with_its_run(tmp_path: Path) -> None:
    """Where the run is killed, the part and what it started are gone in a moment."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            from fastdeit.benchmarks.harness.isolated import Part, run_isolated

            if __name__ == "__main__":
                part = Part(name="x", work="bench_tasks:measure", options={"fault": "hang"})
                run_isolated(part, lambda event: print(event.kind, flush=True))
            """
        )
    )
    mark = str(tmp_path)
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FASTDEIT_TEST_MARK": mark},
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "rows\n"
        time.sleep(0.5)
        assert len(with_variable("FASTDEIT_TEST_MARK", mark)) >= 3
        program.kill()
    end = time.monotonic() + 5
    while with_variable("FASTDEIT_TEST_MARK", mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert with_variable("FASTDEIT_TEST_MARK", mark) == []


def test_libraries_in_a_part_start_processes_as_usual() -> None:
    """Not as the part itself was: FFCV's writer would import everything anew in each worker."""
    task = Part(name="x", work="bench_tasks:start_method")
    assert run_isolated(task, lambda _: None) is None


def test_what_is_imported_before_touches_no_gpu() -> None:
    """A process that is forked after the driver was asked cannot use a GPU."""
    code = """
    import torch
    asked = []
    for name in ("_cuda_getDeviceCount", "_cuda_init", "_cuda_setDevice", "_cuda_getDevice"):
        setattr(torch._C, name, lambda *_, name=name: asked.append(name))
    import fastdeit.benchmarks.harness.preload, sys
    print(asked, "fastdeit.benchmarks.cases.step_part" in sys.modules, "tyro" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == "[] True True"


def test_what_a_part_knows() -> None:
    """Rows of an earlier run, and how much time is left."""
    task = Part(name="x", work="bench_tasks:known_rows")
    for call in (run_isolated, call_here):
        heard: list[Event] = []
        found = call(task, heard.append, seconds=50, known=[bench_tasks.row("one")])
        assert found == [True, False]
        assert [event.kind for event in heard] == ["known"]


@pytest.mark.parametrize("fault", ["exception", "abort"])
def test_items_after_a_lost_one(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception stays in its item; after an abort another process goes on with the rest."""
    items = ("one", "two", "three")
    task = Part(
        name="all",
        work="bench_tasks:several",
        options={"faulty": "two", "fault": fault},
        items=items,
    )
    with BenchRun(tmp_path / "out") as run:
        run.measure(task)
        assert run.end() == 1
    assert [row.name for row in run.rows] == ["one", fault, "three"]
    assert list(run.failed) == ["two"]
    captured = capsys.readouterr()
    assert captured.err.count("not measured: two: ") == 1
    text = (tmp_path / "out" / LOG).read_text()
    assert ("planted" in text) == (fault == "exception")
    assert "== not measured: two: " in text


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=nightly) for n in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_signal_ends_the_run_with_its_table(number: signal.Signals, tmp_path: Path) -> None:
    """Rows, the part that was not done, report and JSON are there; the code is the signal's."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from fastdeit.benchmarks.harness.isolated import Part
            from fastdeit.benchmarks.harness.run import BenchRun
            from fastdeit.tools import cli

            def bench(args):
                with BenchRun(Path(sys.argv[1])) as run:
                    for fault in ("none", "hang"):
                        run.measure(Part(name=fault, work="bench_tasks:measure",
                                         options={"fault": fault}))
                    return run.end()

            if __name__ == "__main__":
                cli.run = bench
                sys.exit(cli.main())
            """
        )
    )
    out = tmp_path / "out"
    program = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        end = time.monotonic() + 60
        rows = out / "rows.jsonl"
        while time.monotonic() < end and (not rows.exists() or "hang" not in rows.read_text()):
            time.sleep(0.1)
        program.send_signal(number)
        printed, error = program.communicate(timeout=60)
    assert program.returncode == 128 + number
    assert "Traceback" not in error
    assert error.count(f"not measured: hang: {number.name} came") == 1
    assert "a part  none" in error  # the table
    assert '"ended_by": "' + number.name in printed.splitlines()[-1]
    assert (out / "report.md").exists() and (out / "a-part.png").exists()
