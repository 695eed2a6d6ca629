"""`fastdeit bench keep` files rows under the house's names, and loses none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_rows import ENVIRONMENT, H200, kept, rate, written

from fastdeit.benchmarks.reporting.keep import hardware_slug
from fastdeit.measured.environment import source_digest
from fastdeit.measured.rows import ROWS, read_rows, write_rows
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole


def keep(folder: Path, *options: str) -> int:
    """Run the program beside the folder."""
    return main(["bench", "keep", str(folder), "--results", str(folder / "results"), *options])


def names(folder: Path) -> list[str]:
    """The files of the results."""
    return sorted(path.name for path in (folder / "results").glob("*"))


def test_a_file_for_each_benchmark_and_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by benchmark, hardware, month and commit; the rows are whole and in order."""
    rows = [
        *kept(rate("a", 1, case="loaders, 1 core"), rate("b", 2, case="loaders, 2 cores")),
        *kept(rate("c", 3, case="step: deit-b, batch 256"), **H200),
        *kept(rate("d", 4, case="end-to-end: demo, batch 96"), commit="feedbeef0000"),
        *kept(rate("e", 5, case="loaders, 1 core"), date="2027-01-02"),
    ]
    write_rows(tmp_path / ROWS, rows)
    assert keep(tmp_path) == 0
    files = {
        "end-to-end_cpu-2cores_202611_feedbeef.jsonl": rows[3:4],
        "loaders_cpu-2cores_202611_01234567.jsonl": rows[:2],
        "loaders_cpu-2cores_202701_01234567.jsonl": rows[4:],
        "step_h200_202611_01234567.jsonl": rows[2:3],
    }
    assert names(tmp_path) == list(files)
    for name, own in files.items():
        assert read_rows(tmp_path / "results" / name) == own
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["num_rows"] == 5
    assert [Path(path).name for path in facts["files"]] == list(files)


@pytest.mark.parametrize(
    ("gpu", "slug"),
    [
        (None, "cpu-2cores"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "a100-mig-1g.10gb"),
    ],
)
def test_hardware_has_a_short_name(gpu: str | None, slug: str) -> None:
    """Of the GPU, or the number of cores."""
    assert hardware_slug({**ENVIRONMENT, "gpu": gpu}) == slug


def test_a_dirty_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless it is asked for; then the name says so."""
    rows = [*kept(rate("a", 1)), *kept(rate("b", 1, case="step"), dirty=True)]
    write_rows(tmp_path / ROWS, rows)
    assert keep(tmp_path) == 2
    assert "Found: 1 of 2 of a checkout with other changes." in capsys.readouterr().err
    assert names(tmp_path) == []
    assert keep(tmp_path, "--dirty") == 0
    assert names(tmp_path) == [
        "loaders_cpu-2cores_202611_01234567.jsonl",
        "step_cpu-2cores_202611_01234567-dirty.jsonl",
    ]


def test_other_rows_are_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows again are fine; others need --overwrite, and none is written before."""
    file = tmp_path / "results" / "step_cpu-2cores_202611_01234567.jsonl"
    written(tmp_path / ROWS, rate("a", 1, case="step"))
    assert keep(tmp_path) == keep(tmp_path) == 0
    before = file.read_bytes()
    written(tmp_path / ROWS, rate("b", 9), rate("a", 2, case="step"))
    capsys.readouterr()
    assert keep(tmp_path) == 2
    assert f"Found: other rows in {file}." in capsys.readouterr().err
    assert names(tmp_path) == [file.name]
    assert file.read_bytes() == before
    assert keep(tmp_path, "--overwrite") == 0
    assert [each.row.median for each in read_rows(file)] == [2]
    assert len(names(tmp_path)) == 2
    # What was not measured again stays.
    written(tmp_path / ROWS, rate("c", 3, case="step"))
    assert keep(tmp_path, "--overwrite") == 0
    assert [each.row.name for each in read_rows(file)] == ["a", "c"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"commit": None}, "rows must know their commit. Found: None in loaders."),
        ({"commit": "../../x"}, "rows must know their commit. Found: ../../x in loaders."),
        ({"date": None}, "rows must know their date. Found: None in loaders."),
    ],
)
def test_rows_that_do_not_know_where_from_are_refused(
    tmp_path: Path, environment: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and nothing is written."""
    written(tmp_path / ROWS, rate("a", 1), **environment)
    assert keep(tmp_path) == 2
    assert words in capsys.readouterr().err
    assert names(tmp_path) == []


def test_rows_of_a_copy_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They get the commit of a clean checkout of the same files; others are refused."""
    here = {"commit": "0123456789ab", "dirty": False}
    monkeypatch.setattr("fastdeit.benchmarks.reporting.keep.describe_commit", lambda: here)
    written(tmp_path / ROWS, rate("a", 1), commit=None, dirty=None, source=source_digest())
    here["dirty"] = True
    assert keep(tmp_path) == 2
    assert "of 0123456789ab, with other changes. Check out" in capsys.readouterr().err
    here["dirty"] = False
    assert keep(tmp_path) == 0
    (each,) = read_rows(tmp_path / "results" / "loaders_cpu-2cores_202611_01234567.jsonl")
    assert (each.environment["commit"], each.environment["source"]) == ("0123456789ab", None)
    written(tmp_path / ROWS, rate("b", 1), commit=None, dirty=None, source="0" * 16)
    assert keep(tmp_path, "--overwrite") == 2
    assert "Found: files 0000000000000000, here " in capsys.readouterr().err


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    """Wherever the files lie, in a checkout or installed; one changed letter changes it."""
    layout = {"fastdeit": "fastdeit", "pipelines": "fastdeit/pipelines"}
    layout |= {"tools": "fastdeit/tools", "benchmarks": "fastdeit/benchmarks"}
    root = Path(__file__).resolve().parent.parent.parent
    for name, place in layout.items():
        shutil.copytree(root / name, tmp_path / place, ignore=lambda *_: ["results", "__pycache__"])
    code = "from fastdeit.measured.environment import source_digest as d; print(d())"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def digest() -> str:
        # Without the import hook of an editable install, which would find the checkout.
        line = [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"]
        return subprocess.run(
            line, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert digest() == source_digest()
    file = tmp_path / "fastdeit" / "tools" / "cli.py"
    file.write_text(file.read_text() + "#")
    assert digest() != source_digest()
