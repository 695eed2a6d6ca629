"""The real steps of `fastdeit budget`: what they are taken with, and what is timed of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from budget_runs import TINY, config_of, run
from PIL import Image

from fastdeit import UserError
from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.models import make_model
from fastdeit.models.flops import Peak, forward_flops
from fastdeit.tools.cli import main
from fastdeit.tools.train.budget import one_gpu
from fastdeit.tools.train.budget.one_gpu import measure_pace
from fastdeit.training import steps as steps_module
from fastdeit.training.steps import count_work, usual_teacher

pytestmark = pytest.mark.slow  # as a whole


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
    monkeypatch.setattr(steps_module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    monkeypatch.setattr(steps_module, "train_step", clock.train_step)
    monkeypatch.setattr(one_gpu, "peak_flops", lambda _: Peak(1e9, "a test"))
    return clock


def test_the_rate_is_that_of_the_share_without_the_warm_up(clock: Clock) -> None:
    """22 images in half a second; MFU is their operations over the peak."""
    config = config_of("demo-teacher")
    told: list[int] = []
    pace = measure_pace(config, 22, 6, None, None, lambda: told.append(1))
    assert clock.sizes == [22] * 7
    assert (pace.batch_size, pace.num_steps, len(told)) == (22, 6, 7)
    assert pace.img_per_s == 22 / 0.5
    model = make_model(config.model, 1000, 64)
    assert pace.mfu == pytest.approx(44 * 3 * forward_flops(model, 64) / 1e9)
    assert clock.teachers[-1] is None


def test_a_distilled_recipe_has_a_teacher_in_its_step(clock: Clock) -> None:
    """regnety_160 stands in, and its operations count."""
    config = config_of("demo")
    pace = measure_pace(config, 2, 1, None, None, lambda: None)
    teacher = clock.teachers[-1]
    assert not teacher.training
    assert sum(value.numel() for value in teacher.parameters()) == 83_590_140
    work = count_work(config)
    assert pace.train_flops == work.train_flops
    assert work.train_flops == 3 * work.eval_flops + forward_flops(teacher, 64)
    small = usual_teacher("demo")
    pace = measure_pace(config, 2, 1, None, None, lambda: None, small)
    assert sum(v.numel() for v in clock.teachers[-1].parameters()) < 1_000_000
    assert pace.train_flops == count_work(config, small).train_flops


def test_a_given_teacher_is_taken(clock: Clock, tmp_path: Path) -> None:
    """Its weights and its classes."""
    named = ModelConfig(model="test_resnet")
    teacher = make_model(named, 3, 64, seed=5)
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, checkpoint_content(teacher, named, 64, Classes(("a", "b", "c"))))
    measure_pace(config_of("demo"), 2, 1, None, path, lambda: None)
    taken = clock.teachers[-1].model.state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in teacher.state_dict().items())


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
    assert facts["one_gpu"]["measured"][0]["data"] == f"{folder} through pil"
    assert not any("--train measures a loader" in line for line in facts["assumed"])
    code, facts, _ = run(f"{TINY} --steps 1 --train {folder} --engine pil --num-images 512", capsys)
    assert facts["num_images"] == 512


def test_interrupted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and one line, no result."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps_module, "train_step", interrupted)
    assert main(["budget", *TINY.split()]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "fastdeit: interrupted\n")


def test_too_large_for_the_device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory is one line with a way out."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps_module, "train_step", full)
    with pytest.raises(UserError, match=r"Found: 64 images, too many for cpu\. Pass a smaller --b"):
        measure_pace(config_of("demo-teacher"), 64, 1, None, None, lambda: None)
