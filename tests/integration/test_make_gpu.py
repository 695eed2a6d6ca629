"""`make gpu`: what it runs under a pretended GPU, and one line without one."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
PRETENDED = """#!/bin/bash
# A Python with a GPU: imports succeed unless they are named in MISSING, calls are written down.
if [ "$1" = -c ]; then
  case "$2" in
    *get_device_name*) echo "$GPU" ;;
    "import "*) for each in $MISSING; do [ "$2" != "import $each" ] || exit 1; done ;;
  esac
  exit 0
fi
echo "$*" >>"$CALLS"
case "$*" in
  *"-m pytest"*) exit "${PYTEST:-0}" ;;
  *"bench all"*)
    mkdir -p "$OUT" && echo row >"$OUT/rows.jsonl"
    if [ -n "${SLOW:-}" ]; then
      trap 'echo "ended by TERM" >>"$CALLS"; exit 143' TERM
      for _ in $(seq 100); do sleep 0.1; done
    fi
    exit "${BENCH:-0}" ;;
  *"bench keep"*) exit "${KEEP:-0}" ;;
esac
"""


class Pretended:
    """A run of scripts/gpu.sh with a Python that only pretends."""

    def __init__(self, folder: Path) -> None:
        """Make the Python."""
        self.python, self.calls = folder / "python", folder / "calls"
        self.out = folder / "out"
        self.python.write_text(PRETENDED)
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Begin."""
        return subprocess.Popen(
            [str(ROOT / "scripts" / "gpu.sh"), "--out", str(self.out), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHON": str(self.python),
                "CALLS": str(self.calls),
                "OUT": str(self.out),
                "GPU": "NVIDIA H100 80GB HBM3",
                "MISSING": "",
                **variables,
            },
        )

    def run(self, *options: str, **variables: str) -> tuple[int, str, list[str]]:
        """The exit code, what was said, and the calls."""
        self.calls.unlink(missing_ok=True)
        with self.start(*options, **variables) as started:
            _, error = started.communicate(timeout=60)
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return started.returncode, error, calls


@pytest.fixture
def pretended(tmp_path: Path) -> Pretended:
    """A pretended GPU machine."""
    return Pretended(tmp_path)


def test_under_a_pretended_gpu(pretended: Pretended) -> None:
    """Tests of a GPU, all benchmarks, then the rows are kept, and the report is made."""
    code, said, calls = pretended.run("--within", "5m", "--only", "step")
    assert code == 0, said
    tests, bench, keep, report = calls
    assert tests.startswith("-m pytest -q -m gpu -p no:cacheprovider tests/")
    named = {word for word in tests.split() if word.endswith(".py")}
    for file in ROOT.glob("tests/*/test_*.py"):
        text = file.read_text()
        if "pytest.mark.gpu\n" in text or "import DEVICES" in text:
            assert str(file.relative_to(ROOT)) in named or file == Path(__file__)
    out = str(pretended.out)
    assert bench == (
        f"-m fastdeit.tools.cli bench all --device cuda --within 5m --out {out} "
        "--trace --save-compiled --only step"
    )
    assert (
        keep == f"-m fastdeit.tools.cli bench keep {out} --results benchmarks/results --overwrite"
    )
    assert report == "-m fastdeit.tools.cli bench report --readme README.md"
    assert "tests on NVIDIA H100 80GB HBM3, at most 60 s" in said


def test_a_dry_run_on_a_cpu(pretended: Pretended) -> None:
    """The same, beside OUT: nothing of the checkout is written."""
    code, said, calls = pretended.run("--cpu", GPU="")
    assert code == 0, said
    _, bench, keep, report = calls
    out = str(pretended.out)
    assert bench == f"-m fastdeit.tools.cli bench all --device cpu --within 8m --out {out}"
    assert keep.endswith(f"bench keep {out} --results {out}-results --overwrite")
    assert report.endswith(f"bench report {out}-results --out {out}-results/REPORT.md")


def test_what_is_missing_is_one_line_each(pretended: Pretended) -> None:
    """Without FFCV, DALI, webdataset and pytest the rest is done; without timm nothing is."""
    code, said, calls = pretended.run(MISSING="ffcv nvidia.dali webdataset pytest")
    assert code == 0
    for name in ("FFCV", "DALI", "webdataset", "pytest"):
        assert said.count(f"make gpu: {name} is not installed: ") == 1
    assert [line.split()[3] for line in calls] == ["all", "keep", "report"]
    code, said, calls = pretended.run(MISSING="timm xxhash")
    assert (code, calls) == (2, [])
    assert (
        said == "make gpu: error: packages are missing. Found: no timm xxhash. Run: make setup.\n"
    )


def test_a_failure_does_not_end_it(pretended: Pretended) -> None:
    """Tests that fail, benchmarks that were not all measured, rows that cannot be kept: code 1."""
    code, said, calls = pretended.run(PYTEST="124", BENCH="1", KEEP="2")
    assert code == 1
    assert [line for line in said.splitlines() if "failed" in line] == [
        "make gpu: failed: tests (exit code 124; 124 is the limit of time)",
        "make gpu: failed: benchmarks (exit code 1)",
        f"make gpu: failed: keeping the rows: they are in {pretended.out}, "
        f"for `fastdeit bench keep {pretended.out}`",
    ]
    assert len(calls) == 3  # no report of what is not kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_benchmarks(number: signal.Signals, pretended: Pretended) -> None:
    """They end in their own way; what they measured is kept."""
    with pretended.start(SLOW="1") as started:
        end = time.monotonic() + 30
        while "bench all" not in (pretended.calls.read_text() if pretended.calls.exists() else ""):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        started.send_signal(number)
        started.communicate(timeout=30)
    assert started.returncode == 143
    calls = pretended.calls.read_text().splitlines()
    assert calls[2] == "ended by TERM"
    assert calls[3].startswith("-m fastdeit.tools.cli bench keep ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu(pretended: Pretended) -> None:
    """One line, exit code 2, and nothing is run or written."""
    code, said, calls = pretended.run(GPU="")
    assert (code, calls) == (2, [])
    assert said.count("\n") == 1 and "error: a GPU is needed. Found: none that PyTorch sees" in said
    code, said, calls = pretended.run(MISSING="torch", PATH="/nowhere:/usr/bin:/bin")
    assert (code, calls) == (2, [])
    done = subprocess.run(
        ["make", "-s", "gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("make gpu: error: a GPU is needed. Found: none")
    assert re.match(r"make(\[\d+\])?: \*\*\*", second)
