"""`fastdeit budget`: hours follow from the rate, the rate from real steps, errors are one line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from budget_runs import TINY, config_of, run

from fastdeit import UserError
from fastdeit.benchmarks.cases.step import STEP
from fastdeit.measured.rows import Kept, Row, write_rows
from fastdeit.paper.training_time import paper_times
from fastdeit.recipes import RECIPES
from fastdeit.recipes.entry import changed
from fastdeit.text.figures import parse_hours
from fastdeit.tools.cli import main
from fastdeit.tools.train.budget import one_gpu
from fastdeit.tools.train.budget.command import Changes
from fastdeit.training.steps import count_work

pytestmark = pytest.mark.slow  # as a whole


def test_the_papers_time_at_the_papers_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """2,014 img/s, the rate of 53 hours on one node, gives 53 hours of training."""
    # Links that cost nothing: the paper's rate holds what they cost there.
    links = "--link-gb-s 1e9 --latency-us 0"
    code, facts, text = run(f"deit-b --rate 251.75 --gpus 8 --within 72h {links}", capsys)
    assert code == 0
    (eight,) = facts["gpus"]
    assert eight["img_per_s"] == pytest.approx(2014, rel=1e-6)
    assert eight["train_hours"] == pytest.approx(53.0, abs=0.05)
    assert eight["train_hours"] == pytest.approx(300 * 1251 * 1024 / 2014 / 3600)
    # A forward pass is a third of training; the model and its average are evaluated.
    assert eight["eval_hours"] == pytest.approx(300 * 2 * 50_000 / (3 * 2014) / 3600)
    assert eight["hours"] == pytest.approx(eight["train_hours"] + eight["eval_hours"])
    assert (facts["within_hours"], facts["is_within"]) == (72, True)
    assert [time["hours"] for time in facts["paper"]] == [53, 37]
    assert facts["one_gpu"]["measured"] == []
    assert "53.00 h  300 epochs on one node of 8 V100" in text
    assert "assumed: more than one device: predicted, not measured" in text
    assert "given the paper's 53 h on 8 V100, predicts 26.5 h on 16; the paper took 37 h" in text


def test_over_the_budget_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The same run is over two days on one device, and says by how much; on two it is not."""
    code, facts, text = run("deit-b --rate 2014 --within 2d", capsys)
    assert (code, facts["is_within"]) == (1, False)
    assert "over by 6 h 23 min" in text
    assert "predicted, not measured" not in text and "NVLink" not in text
    code, facts, text = run("deit-b --rate 2014 --within 2d --gpus 2,1,2", capsys)
    assert (code, facts["is_within"]) == (0, True)
    assert [each["num_gpus"] for each in facts["gpus"]] == [1, 2]
    assert "over by 6 h 23 min" in text and "inside by 20 h 4" in text


def test_given_figures_act(capsys: pytest.CaptureFixture[str]) -> None:
    """A slow loader, link, disk: each changes what is predicted, and says so."""
    line = "deit-b --rate 3800 --gpus 8"
    _, facts, text = run(f"{line} --loader-rate 100", capsys)
    assert facts["gpus"][0]["img_per_s"] == pytest.approx(8 * 14 * 100)
    assert facts["gpus"][0]["limit"] == "loader"
    assert "a core loads 100 samples/s, 3 of an image (as given); each GPU has 14 such" in text
    _, facts, text = run(f"{line} --link-gb-s 1 --gpus-per-node 16 --machine v100", capsys)
    assert (facts["gpus"][0]["limit"], facts["machine"]["name"]) == (
        "communication",
        "v100 changed",
    )
    assert "but as given: gpus_per_node 16, link_gb_s 1" in text
    _, facts, _ = run(f"{line} --image-bytes 1e6 --disk-gb-s 0.1 --memory-gib 64", capsys)
    assert facts["gpus"][0]["img_per_s"] == pytest.approx(300)
    assert facts["gpus"][0]["limit"] == "disk"


def test_only_what_is_trained_is_averaged() -> None:
    """A recipe that trains its classifier sends that, not the model."""
    base = config_of("deit-b")
    only = changed(base, optim={"trainable": "classifier"}, model={"drop_path": 0.0})
    assert count_work(base).gradient_bytes == 4 * 86_567_656
    assert count_work(only).gradient_bytes == 4 * (768 * 1000 + 1000)
    # And its backward pass is that of one layer: nothing is sent beside it.
    assert count_work(base).backward_flops == 2 * count_work(base).eval_flops
    assert count_work(only).backward_flops == 2 * 768 * 1000


# ---- from rows ---------------------------------------------------------------------------------
WHERE = {"device": "cuda:0", "gpu": "NVIDIA H200", "num_cores": 16, "cpu": "a CPU"}


def planted(case: str, name: str, median: float, **more: Any) -> Kept:
    """A row as `bench` keeps it."""
    rates = {"n": 5, "median": median, "p20": median, "p80": median}
    return Kept(Row(case=case, name=name, unit="img/s", **rates, **more), WHERE)


def step_row(recipe: str, batch_size: int, median: float, precision: str = "bf16") -> Kept:
    """One of `bench step`, with its parts: half of its time is the backward pass."""
    return planted(
        f"step: {recipe}, batch {batch_size}",
        STEP,
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


def test_from_rows(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batches, backward pass and loader come from the rows; others are marked as not measured."""
    code, facts, text = run(f"deit-b --from {kept} --gpus 1,4,8", capsys)
    assert code == 0
    one, four, eight = facts["gpus"]
    assert one["compute_s"] == pytest.approx(1024 / 3800)
    assert four["compute_s"] == pytest.approx(256 / 3800)
    assert eight["compute_s"] == pytest.approx(128 / 3200)
    # 14 cores a GPU load 1,000 samples/s each, more than it trains.
    assert 0.98 * 4 * 3800 < four["img_per_s"] < 4 * 3800
    assert four["efficiency_frac"] == pytest.approx(four["img_per_s"] / (4 * 3800))
    assert "assumed: 50% of a step is its backward pass (measured)" in text
    assert "batches of 1,024 a device were not measured" in text
    loader = "a core loads 1,000 samples/s, 3 of an image (measured: fastdeit ffcv, 3 copies, 16,00"
    assert loader in text and "measured on NVIDIA H200, deit_base_patch16_224, 224 px, bf16" in text
    write_rows(kept / "more.jsonl", [step_row("deit-b", 256, 1900, "fp32")])
    _, facts, _ = run(f"deit-b --from {kept} --precision fp32 --gpus 1", capsys)
    assert facts["gpus"][0]["img_per_s"] == pytest.approx(1900)
    with pytest.raises(UserError, match="rows of a step must be of one machine, model, size and"):
        one_gpu.from_rows(kept, "deit-b", Changes().resolve("deit-b"))


def test_rows_are_called_so_where_they_are_made() -> None:
    """`bench step` and `bench loaders` name their rows; what reads them must not drift apart."""
    assert one_gpu.STEP == STEP
    report = (Path(__file__).parents[2] / "benchmarks" / "REPORT.md").read_text("utf-8")
    for pattern in (one_gpu.STEP_CASE, one_gpu.LOADER_CASE, one_gpu.LOADER):
        assert re.search(pattern, report)


def test_without_a_limit_nothing_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """However long it takes."""
    code, facts, text = run("deit-b --rate 0.1", capsys)
    assert (code, facts["is_within"], facts["within_hours"]) == (0, None, None)
    assert "within" not in text


def test_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    """Batch, model, resolution, epochs and the sizes of the sets replace the recipe's."""
    line = (
        "deit-b --rate 100 --batch-size 256 --model deit_tiny_patch16_224 --image-size 32 "
        "--epochs 10 --num-images 1000 --num-val-images 100"
    )
    _, facts, _ = run(line, capsys)
    assert (facts["model"], facts["image_size"]) == ("deit_tiny_patch16_224", 32)
    # 768 of the 1,000 samples, a multiple of 256.
    assert (facts["epochs"], facts["steps_per_epoch"], facts["batch_size"]) == (10, 3, 256)
    assert facts["gpus"][0]["train_hours"] == pytest.approx(10 * 768 / 100 / 3600)
    assert facts["gpus"][0]["eval_hours"] == pytest.approx(10 * 2 * 100 / 300 / 3600)
    assert facts["paper"] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_estimated(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From a rate alone."""
    code, facts, text = run(f"{recipe} --rate 1000", capsys)
    assert code == 0
    assert facts["gpus"][0]["hours"] > 0
    is_taught = config_of(recipe).distill.distillation != "none"
    teacher = "test_resnet" if recipe == "demo" else "regnety_160"
    assert is_taught == (f"the teacher is {teacher} with random weights" in text)


def test_real_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a rate, steps are taken at the smallest and the largest share of a device."""
    code, facts, text = run(f"{TINY} --gpus 1,2,4 --steps 3 --num-images 512", capsys)
    assert code == 0
    small, large = facts["one_gpu"]["measured"]
    assert [(one["num_steps"], one["batch_size_each"]) for one in (small, large)] == [
        (3, 2),
        (3, 8),
    ]
    assert facts["one_gpu"]["rates"] == [[2, small["img_per_s"]], [8, large["img_per_s"]]]
    assert facts["gpus"][0]["img_per_s"] == pytest.approx(large["img_per_s"])
    assert small["data"] == "synthetic"
    assert 0 < small["mfu"]
    assert small["peak"]["source"] == "measured: 2048^3 matrix product in fp32"
    assert "measured: 3 steps of 8 images (synthetic) on cpu (as asked), fp32" in text


@pytest.mark.parametrize(
    ("text", "hours"),
    [("72h", 72), ("90m", 1.5), ("3d", 72), ("1d12h", 36), ("1.5d", 36), ("1d 2h 30m", 26.5)],
)
def test_durations(text: str, hours: float) -> None:
    """Days, hours and minutes, alone and together."""
    assert parse_hours(text) == hours


@pytest.mark.parametrize("text", ["72", "", "h", "3w", "-3h", "0h", "12h1d", "1,5h", "inf"])
def test_wrong_durations(text: str) -> None:
    """A number needs its unit."""
    with pytest.raises(UserError, match="within must be a duration in days, hours and minutes"):
        parse_hours(text)


def test_the_papers_times() -> None:
    """They belong to a model and a resolution, not to distilled runs."""
    base = config_of("deit-b")
    assert [time.hours for time in paper_times(base)] == [53, 37]
    large = replace(base, data=replace(base.data, image_size=384))
    assert [time.hours for time in paper_times(large)] == [20]
    assert [time.hours for time in paper_times(config_of("deit-s"))] == [72]
    assert paper_times(config_of("demo")) == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("fly", "no such recipe. Found: fly. Near it: nothing."),
        ("demo-teacher --within 72", "within must be a duration in days, hours and minutes."),
        ("demo-teacher --rate 0", "rate must be from 0.001 to 1e9. Found: 0.0."),
        ("demo-teacher --rate nan", "rate must be from 0.001 to 1e9. Found: nan."),
        ("demo-teacher --rate 5 --steps 3", "steps has no effect with a rate."),
        ("demo-teacher --rate 5 --train x", "train has no effect with a rate."),
        ("demo-teacher --rate 5 --device cpu", "device has no effect with a rate."),
        ("demo-teacher --engine pil", "engine has no effect without a dataset to decode."),
        ("demo-teacher --gpus 0", "gpus must be at least 1. Found: 0."),
        (
            "demo-teacher --gpus 1,8,65",
            "gpus must be at most the images of a step (64). Found",
        ),
        ("demo-teacher --gpus many", "gpus must be whole numbers. Found: 'many'."),
        ("demo-teacher --from {kept} --rate 5", "rate has no effect with rows. Found: --from too."),
        ("demo-teacher --from {kept} --steps 5", "steps has no effect with rows."),
        ("demo-teacher --rate 5 --precision bf16", "precision has no effect with a rate."),
        ("demo-teacher --rate 5 --loader-rate nan", "loader_rate must be from 0.001 to 1e9. Fo"),
        ("demo-teacher --rate 5 --disk-gb-s 0", "disk_gb_s must be from 0.001 to 1e9."),
        ("demo-teacher --rate 5 --latency-us -1", "latency_us must be from 0 to 1e9. Fo"),
        ("deit-s --from {kept}", "rows must hold those of the step of deit-s. Found: deit-b in"),
        (
            "deit-b --from {kept} --precision fp16",
            "deit-b in fp16. Found: deit-b in bf16 at",
        ),
        ("deit-b --from {kept} --model vit_base_patch16_224", "rows must be of vit_base_patch16_2"),
        ("deit-b --from {empty}", "there must be rows of `fastdeit bench`. Found: no .jsonl"),
        ("deit-b --from {loader}", "rows must hold those of the step of deit-b. Found: none at"),
        (
            "demo-teacher --rate 5 --gpus 8 --image-bytes 1e308",
            "image_bytes must be from 1 to 1e9",
        ),
        ("demo-teacher --rate 5 --gpus 8 --latency-us 1e308", "latency_us must be from 0 to 1e9."),
        ("demo-teacher --rate 5 --link-gb-s 9", "link_gb_s has no effect where one device trains"),
        (
            "deit-b --from {zero}",
            "rows must hold those of the step of deit-b. Found: deit-b",
        ),
        ("demo-teacher --steps 0", "steps must be at least 1. Found: 0."),
        ("demo-teacher --teacher x", "teacher has no effect with demo-teacher"),
        ("demo-teacher --batch-size 0", "batch_size must be at least 1. Found: 0."),
        ("demo-teacher --train none", "dataset does not exist"),
        ("demo-teacher --device cuda:99", "device cuda:99 is not there."),
        ("demo-teacher --num-images 20", "batch_size must be at most an epoch's samples (20)."),
        ("demo-teacher --rate 5 --model no_such_model", "model is not one of timm"),
        ("demo --teacher none.pt --device cpu", "checkpoint is not a file."),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong input ends with exit code 2, one line on stderr and nothing on stdout."""
    empty, loader, zero = (tmp_path / name for name in ("empty", "loader.jsonl", "zero.jsonl"))
    write_rows(zero, [step_row("deit-b", 128, 0.0)])
    empty.mkdir()
    write_rows(loader, [planted("loaders, 1 core", "fastdeit ffcv", 1000)])
    assert (
        main(["budget", *line.format(kept=kept, empty=empty, loader=loader, zero=zero).split()])
        == 2
    )
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeit: error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
