"""`fastdeit budget`: hours follow from the rate, the rate from real steps, errors are one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastdeit import UserError
from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.models import make_model
from fastdeit.models.flops import Peak, forward_flops
from fastdeit.paper.training_time import paper_times
from fastdeit.pipelines import pace as pace_module
from fastdeit.pipelines.pace import count_work, measure_pace, usual_teacher
from fastdeit.recipes import RECIPES
from fastdeit.text.figures import parse_hours
from fastdeit.tools.budget import resolve
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole

TINY = "demo-teacher --device cpu --batch-size 8"


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Run the command: exit code, the JSON object of the last line, what it said."""
    code = main(["budget", *line.split()])
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), captured.err


def config_of(recipe: str) -> TrainConfig:
    """A recipe, on the CPU."""
    return resolve(recipe, None, None, None, None, "cpu", "fp32")


def test_the_papers_time_at_the_papers_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """2,014 img/s, the rate of 53 hours on one node, gives 53 hours of training."""
    code, facts, text = run("deit-b --rate 251.75 --gpus 8 --within 72h", capsys)
    assert code == 0
    assert facts["img_per_s"] == 2014
    assert facts["train_hours"] == pytest.approx(53.0, abs=0.05)
    assert facts["train_hours"] == pytest.approx(300 * 1251 * 1024 / 2014 / 3600)
    # A forward pass is a third of training; the model and its average are evaluated.
    assert facts["eval_hours"] == pytest.approx(300 * 2 * 50_000 / (3 * 2014) / 3600)
    assert facts["hours"] == pytest.approx(facts["train_hours"] + facts["eval_hours"])
    assert (facts["within_hours"], facts["is_within"]) == (72, True)
    assert [time["hours"] for time in facts["paper"]] == [53, 37]
    assert facts["measured"] is None
    assert "53.00 h  300 epochs on one node of 8 V100" in text
    assert "assumed: 8 devices are 8 times as fast as one; this was not measured" in text


def test_over_the_budget_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The same run is over two days, and says by how much."""
    code, facts, text = run("deit-b --rate 2014 --within 2d", capsys)
    assert (code, facts["is_within"]) == (1, False)
    assert "over by 6 h 23 min" in text


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
    assert facts["train_hours"] == pytest.approx(10 * 768 / 100 / 3600)
    assert facts["eval_hours"] == pytest.approx(10 * 2 * 100 / 300 / 3600)
    assert facts["paper"] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_estimated(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From a rate alone."""
    code, facts, text = run(f"{recipe} --rate 1000", capsys)
    assert code == 0
    assert facts["hours"] > 0
    is_taught = config_of(recipe).distill.distillation != "none"
    teacher = "test_resnet" if recipe == "demo" else "regnety_160"
    assert is_taught == (f"the teacher is {teacher} with random weights" in text)


def test_real_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a rate, steps are taken and their rate is used."""
    code, facts, text = run(f"{TINY} --gpus 2 --steps 3 --num-images 512", capsys)
    assert code == 0
    measured = facts["measured"]
    assert (measured["num_steps"], measured["batch_size_each"]) == (3, 4)
    assert measured["data"] == "synthetic"
    assert facts["img_per_s"] == 2 * facts["img_per_s_each"] > 0
    assert 0 < measured["mfu"]
    assert measured["peak"]["source"] == "measured: 2048^3 matrix product in fp32"
    assert "measured: 3 steps of 4 images (synthetic) on cpu (as asked), fp32" in text


class Clock:
    """A clock that only training steps move; the first one, with its compilation, by 100 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self.teachers: list[Any] = []

    def perf_counter(self) -> float:
        """The time."""
        return self.now

    def train_step(self, *args: Any) -> None:
        """Half a second a step."""
        _, session, batch, _ = args
        self.now += 0.5 if self.sizes else 100
        self.sizes.append(len(batch.images))
        self.teachers.append(session.teacher)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of time and of the training step, with a device whose peak is known."""
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    monkeypatch.setattr(pace_module, "train_step", clock.train_step)
    monkeypatch.setattr(pace_module, "peak_flops", lambda _: Peak(1e9, "a test"))
    return clock


def test_the_rate_is_that_of_the_share_without_the_warm_up(clock: Clock) -> None:
    """A third of 64 images, rounded up, in half a second; MFU is its operations over the peak."""
    config = config_of("demo-teacher")
    told: list[int] = []
    pace = measure_pace(config, 3, 6, None, None, lambda: told.append(1))
    assert clock.sizes == [22] * 7
    assert (pace.batch_size, pace.num_steps, len(told)) == (22, 6, 7)
    assert pace.img_per_s == 22 / 0.5
    model = make_model(config.model, 1000, 64)
    assert pace.mfu == pytest.approx(44 * 3 * forward_flops(model, 64) / 1e9)
    assert clock.teachers[-1] is None


def test_a_distilled_recipe_has_a_teacher_in_its_step(clock: Clock) -> None:
    """regnety_160 stands in, and its operations count."""
    config = config_of("demo")
    pace = measure_pace(config, 32, 1, None, None, lambda: None)
    teacher = clock.teachers[-1]
    assert not teacher.training
    assert sum(value.numel() for value in teacher.parameters()) == 83_590_140
    assert pace.work == count_work(config)
    assert pace.work.train_flops == 3 * pace.work.eval_flops + forward_flops(teacher, 64)
    small = usual_teacher("demo")
    pace = measure_pace(config, 32, 1, None, None, lambda: None, small)
    assert sum(v.numel() for v in clock.teachers[-1].parameters()) < 1_000_000
    assert pace.work == count_work(config, small)
    assert pace.work.teacher == "test_resnet with random weights"


def test_a_given_teacher_is_taken(clock: Clock, tmp_path: Path) -> None:
    """Its weights and its classes."""
    named = ModelConfig(model="test_resnet")
    teacher = make_model(named, 3, 64, seed=5)
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, checkpoint_content(teacher, named, 64, ("a", "b", "c")))
    pace = measure_pace(config_of("demo"), 32, 1, None, path, lambda: None)
    taken = clock.teachers[-1].model.state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in teacher.state_dict().items())
    assert pace.work.teacher == str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ImageFolder of 2 classes with 20 images each."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.jpg")
    return tmp_path / "images"


def test_a_dataset_is_decoded(
    folder: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """More steps than an epoch has; its size and classes are taken."""
    code, facts, _ = run(f"{TINY} --steps 8 --train {folder} --engine pil", capsys)
    assert code == 0
    assert facts["num_images"] == 40
    assert clock.sizes == [8] * 9  # an epoch has 5 steps
    assert facts["measured"]["data"] == f"{folder} through pil"
    assert not any("--train measures a loader" in line for line in facts["assumed"])
    code, facts, _ = run(f"{TINY} --steps 1 --train {folder} --engine pil --num-images 512", capsys)
    assert facts["num_images"] == 512


def test_interrupted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and one line, no result."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pace_module, "train_step", interrupted)
    assert main(["budget", *TINY.split()]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "fastdeit: interrupted\n")


def test_too_large_for_the_device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory is one line with a way out."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pace_module, "train_step", full)
    with pytest.raises(UserError, match=r"Found: 64 images, too many for cpu\. Pass a smaller --b"):
        measure_pace(config_of("demo-teacher"), 1, 1, None, None, lambda: None)


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
        ("demo-teacher --rate 0", "rate must be above 0. Found: 0.0."),
        ("demo-teacher --rate nan", "rate must be above 0. Found: nan."),
        ("demo-teacher --rate 5 --steps 3", "steps has no effect with a rate."),
        ("demo-teacher --rate 5 --train x", "train has no effect with a rate."),
        ("demo-teacher --rate 5 --device cpu", "device has no effect with a rate."),
        ("demo-teacher --engine pil", "engine has no effect without a dataset to decode."),
        ("demo-teacher --gpus 0", "gpus must be at least 1. Found: 0."),
        ("demo-teacher --gpus 65", "gpus must be at most the images of a step (64). Found: 65."),
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
def test_wrong_input_is_one_line(line: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong input ends with exit code 2, one line on stderr and nothing on stdout."""
    assert main(["budget", *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeit: error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
