"""`fastdeit bench budget`: from kept rows to predictions, and two processes beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench_here import Heard
from nightly import nightly

from fastdeit.benchmarks.budget import check as scaling_check
from fastdeit.benchmarks.budget import two_processes
from fastdeit.benchmarks.budget.check import (
    ALL_REDUCE,
    ALONE,
    APART,
    PREDICTED,
    PREDICTED_APART,
    TOGETHER,
    measure_check,
)
from fastdeit.benchmarks.budget.two_processes import Job
from fastdeit.benchmarks.commands import budget as command
from fastdeit.errors import UserError
from fastdeit.measured.rows import Kept, Row, write_rows
from fastdeit.tools.cli import main

pytestmark = pytest.mark.usefixtures("parts_here")

WHERE = {"device": "cuda:0", "gpu": "NVIDIA H200", "num_cores": 16, "cpu": "a CPU"}
TINY = Job("demo", "cpu", "fp32", 2, 1, 1, 2, image_size=32)


def planted(case: str, name: str, median: float, **more: Any) -> Kept:
    """A row as `bench` keeps it."""
    rates = {"n": 5, "median": median, "p20": median, "p80": median}
    return Kept(Row(case=case, name=name, unit="img/s", **rates, **more), WHERE)


def step_row(recipe: str, batch_size: int, median: float, precision: str = "bf16") -> Kept:
    """One of `bench step`, with its parts: half of its time is the backward pass."""
    return planted(
        f"step: {recipe}, batch {batch_size}",
        "fastdeit step",
        median,
        model="deit_base_patch16_224",
        image_size=224,
        phases_ms={"data wait": 9.0, "forward": 2.0, "backward": 3.0, "optimizer": 1.0},
        settings={"precision": precision},
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder of rows of a step at two batches, and of a loader."""
    folder = tmp_path / "kept"
    folder.mkdir()
    rows = [
        step_row("deit-b", 128, 3200),
        step_row("deit-b", 256, 3800),
        planted("step: deit-b, batch 256", "the published DeiT loop", 900),
        planted("loaders, 1 core", "fastdeit ffcv, 3 copies", 2000),
        planted("loaders, 16 cores", "fastdeit ffcv, 3 copies", 16_000),
        planted("loaders, 16 cores", "fastdeit pil, 3 copies", 9_000),
        planted("loaders, 16 cores", "fastdeit ffcv", 10_000),
    ]
    write_rows(folder / "rows.jsonl", rows)
    return folder


def bench(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object of the last line, and what was said."""
    code = main(["bench", "budget", *line.split()])
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), captured.err


def test_from_rows(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batches, backward pass and loader come from the rows; predictions are marked as such."""
    out = tmp_path / "out"
    line = f"--from {kept} --gpus 8 1 8 --batch-size 256 --no-check --out {out}"
    code, facts, text = bench(line, capsys)
    assert code == 0
    names = [row["name"] for row in facts["rows"]]
    in_all = "1,024 images in all, as the recipe"
    assert names == [
        *(f"{number}, 256 images a GPU" for number in ("1 GPU", "8 GPUs")),
        *(f"{number}, {in_all}" for number in ("1 GPU", "8 GPUs")),
    ]
    one, eight, _, strong = facts["rows"]
    for row in facts["rows"]:
        assert (row["case"], row["n"]) == ("budget: deit-b", 0)
        assert row["p20"] == row["median"] == row["p80"]
        assert row["note"].startswith("predicted, not measured; limit: ")
        assert row["frac_of_bound"] == pytest.approx(row["median"] / row["bound"])
        assert sum(row["phases_ms"].values()) == pytest.approx(row["step_ms"])
    assert one["median"] == pytest.approx(3800)
    assert one["phases_ms"]["compute"] == pytest.approx(1000 * 256 / 3800)
    assert eight["bound"] == pytest.approx(8 * 3800)
    # 14 cores a GPU load 1,000 samples/s each, more than it trains.
    assert 0.98 * 8 * 3800 < eight["median"] < 8 * 3800
    assert eight["paper"] == pytest.approx(2014, abs=1)
    # A share of 128 images was measured too.
    assert strong["phases_ms"]["compute"] == pytest.approx(1000 * 128 / 3200)
    assert "assumed: 50% of a step is its backward pass (measured)" in text
    loader = (
        "a core loads 1,000 samples/s, 3 of an image (measured: fastdeit ffcv, 3 copies, 16,000"
    )
    assert loader in text and "measured on NVIDIA H200, deit_base_patch16_224, 224 px, bf16" in text
    assert "given the paper's 53 h on 8 V100, predicts 26.5 h on 16; the paper took 37 h" in text
    assert (out / "budget_deit-b_gpus.png").read_bytes()[:4] == b"\x89PNG"
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert [json.loads(each)["name"] for each in lines] == names


def test_given_figures_act(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slow loader, a slow link, a limit in hours; each changes what is predicted."""
    base = f"--from {kept} --gpus 8 --no-check"
    code, facts, text = bench(f"{base} --loader-rate 100", capsys)
    assert facts["rows"][0]["median"] == pytest.approx(8 * 14 * 100)
    assert "limit: loader" in facts["rows"][0]["note"]
    _, facts, text = bench(f"{base} --link-gb-s 1 --gpus-per-node 16 --machine v100", capsys)
    assert "limit: communication" in facts["rows"][0]["note"]
    assert "but as given: gpus_per_node 16, link_gb_s 1" in text
    _, facts, _ = bench(f"{base} --image-bytes 1e6 --disk-gb-s 0.1 --memory-gib 64", capsys)
    assert facts["rows"][0]["median"] == pytest.approx(300)
    assert bench(f"{base} --within 72h", capsys)[0] == 0
    code, _, text = bench(f"{base} --within 2h", capsys)
    assert code == 1 and "deit-b within 2 h, predicted: none of these" in text


def test_a_given_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's 8 V100 take the paper's 53 hours; the teacher of a distilled recipe is named."""
    line = "--rate 251.75 --machine v100 --gpus 8 --no-check --batch-size 128 --link-gb-s 1e9"
    _, facts, text = bench(f"deit-b {line} --latency-us 0", capsys)
    assert facts["rows"][0]["median"] == pytest.approx(2014, rel=1e-4)
    assert "deit-b on v100 changed" in text
    _, facts, text = bench("deit-b-distilled --rate 100 --gpus 2 --no-check", capsys)
    assert "assumed: the teacher is regnety_160 with random weights" in text


def test_measured_now(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without rows or a rate the step is taken here."""
    monkeypatch.setitem(command.STEPS, "cpu", 1)
    code, facts, text = bench("demo --batch-size 4 --gpus 1 --no-check --device cpu", capsys)
    assert code == 0
    assert facts["rows"][0]["median"] > 0
    assert "(measured now: 1 steps on cpu (as asked), fp32)" in text


@nightly  # predictions alone are the small form
@pytest.mark.slow
def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, ratios and the predictions follow from the seconds that the processes tell."""
    told: list[dict[str, Any]] = []
    real = two_processes.run_two

    def run_and_keep(job: Job, on_round: Any) -> dict[str, Any]:
        told.append(real(job, on_round))
        return told[-1]

    monkeypatch.setattr(scaling_check, "run_two", run_and_keep)
    heard = Heard()
    measure_check(heard.record, TINY)
    rows = {row.name: row for row in heard.rows}
    assert list(rows) == [ALONE, APART, PREDICTED, PREDICTED_APART, TOGETHER, ALL_REDUCE]
    assert len(heard.of("round")) == 3  # one is the warm-up
    (facts,) = told
    assert all(row.n == len(facts["rounds"]) == 2 for row in rows.values())
    for row in rows.values():
        assert row.p20 <= row.median <= row.p80
    # Of two rounds the median is the mean.
    alone, average, apart, together = (
        list(seconds) for seconds in zip(*facts["rounds"], strict=True)
    )

    def mean(values: list[float]) -> float:
        return sum(values) / 2

    assert rows[ALONE].median == pytest.approx(mean([2 / one for one in alone]))
    assert rows[TOGETHER].median == pytest.approx(mean([4 / one for one in together]))
    assert rows[PREDICTED].median == pytest.approx(
        mean([4 / (one + talk) for one, talk in zip(alone, average, strict=True)])
    )
    ratios = [both / (one + talk) for one, talk, both in zip(apart, average, together, strict=True)]
    assert rows[PREDICTED_APART].ratio == pytest.approx(mean(ratios))
    assert rows[PREDICTED_APART].baseline == TOGETHER
    megabytes = facts["gradient_bytes"] / 1e6
    assert megabytes == pytest.approx(4.3, abs=0.5)
    assert rows[ALL_REDUCE].median == pytest.approx(
        mean([megabytes / 1000 / talk for talk in average])
    )
    assert f"error {100 * (rows[PREDICTED].ratio or 0) - 100:+.1f}%" in (rows[PREDICTED].note or "")


@pytest.mark.slow
@nightly
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_its_processes_end_with_it(how: signal.Signals, tmp_path: Path) -> None:
    """By Ctrl-C and by a kill, in the middle of their work."""
    mark = f"FASTDEIT_TEST_BUDGET={tmp_path}"
    line = ["bench", "budget", "demo", "--rate", "5", "--rounds", "1000"]
    name, value = mark.split("=")
    started = subprocess.Popen(
        [sys.executable, "-m", "fastdeit.tools.cli", *line],
        env={**os.environ, name: value},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: len(marked(mark, "two_processes")) == 2)
        cores = [os.sched_getaffinity(each) for each in marked(mark, "two_processes")]
        assert [len(bound) for bound in cores] == [1, 1] and cores[0] != cores[1]
        time.sleep(3)
        started.send_signal(how)
        _, text = started.communicate(timeout=60)
        assert started.returncode == (130 if how == signal.SIGINT else -how)
        if how == signal.SIGINT:
            assert text.decode().endswith("fastdeit: interrupted\n") and b"Traceback" not in text
        wait_until(lambda: not marked(mark))
    finally:
        for each in marked(mark):
            os.kill(each, signal.SIGKILL)


def marked(mark: str, word: str = "") -> list[int]:
    """The processes whose environment has a mark, and whose command line a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_marked = mark.encode() in (folder / "environ").read_bytes().split(b"\0")
            if is_marked and word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(is_so: Any, timeout_s: float = 60) -> None:
    """Wait for something, but not for ever."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@nightly
@pytest.mark.slow
def test_a_failed_process_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Its own message comes first; the other does not go on."""
    wrong = Job("demo", "cpu", "tf32", 2, 1, 1, 1)
    with pytest.raises(UserError, match=r"training in 2 processes failed. Found: exit code 1 of d"):
        two_processes.run_two(wrong, lambda: None)
    assert (
        "fastdeit bench: precision tf32 needs a GPU. Found: device cpu." in capfd.readouterr().err
    )


def test_one_core_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predictions are there all the same."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    code, facts, text = bench("demo --rate 5 --gpus 1", capsys)
    assert code == 1 and len(facts["rows"]) == 2
    assert "cores must be two at least, for two processes. Found: 1. Pass --no-check." in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("deit-x --rate 5", "no such recipe. Found: deit-x."),
        ("--from {kept} --rate 5", "rate must come from one place. Found: --from "),
        ("deit-b deit-s --rate 5", "rate must be that of one recipe. Found: deit-b, deit-s."),
        ("--rate 0", "rate must be above 0. Found: 0.0. Leave out --rate."),
        ("--rate 5 --gpus 0", "gpus must be at least 1. Found: 0."),
        ("--rate 5 --batch-size 0", "batch_size must be at least 1. Found: 0."),
        ("--rate 5 --loader-rate nan", "loader_rate must be above 0. Found: nan."),
        ("--rate 5 --disk-gb-s 0", "disk_gb_s must be above 0. Found: 0.0."),
        ("--rate 5 --latency-us -1", "latency_us must be 0 or more. Found: -1.0."),
        ("--rate 5 --within 72", "within must be a duration in days, hours and minutes."),
        ("--rate 5 --precision bf16", "precision has no effect where nothing is measured."),
        ("--rate 5 --no-check --device cpu", "device has no effect where nothing is measured."),
        ("--rate 5 --no-check --rounds 3", "rounds has no effect with --no-check. Found: 3."),
        ("--from {empty} --no-check", "there must be rows of `fastdeit bench`. Found: no .jsonl"),
        ("--from {loader} --no-check", "rows must hold those of a step. Found: none at "),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line on stderr and nothing on stdout."""
    (tmp_path / "empty").mkdir()
    loader = tmp_path / "loader.jsonl"
    write_rows(loader, [planted("loaders, 1 core", "fastdeit ffcv", 1000)])
    filled = line.format(kept=kept, empty=tmp_path / "empty", loader=loader)
    assert main(["bench", "budget", *filled.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeit: error: ") and text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_what_rows_cannot_say_is_left_out(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another recipe, another precision, two of them at once: one line each, exit code 1."""
    code, facts, text = bench(f"deit-s deit-b --from {kept} --gpus 1 --no-check", capsys)
    assert code == 1 and "rows must hold those of the step of deit-s. Found: deit-b at" in text
    assert {row["case"] for row in facts["rows"]} == {"budget: deit-b"}
    code, _, text = bench(f"--from {kept} --precision fp16 --no-check", capsys)
    assert code == 1 and "the step of deit-b in fp16" in text
    write_rows(kept / "more.jsonl", [step_row("deit-b", 256, 1900, "fp32")])
    code, _, text = bench(f"--from {kept} --no-check", capsys)
    assert code == 1 and "rows of a step must be of one machine, model, size and precision." in text
    code, facts, _ = bench(f"--from {kept} --precision fp32 --no-check --gpus 1", capsys)
    assert code == 0 and facts["rows"][0]["median"] == pytest.approx(1900)
