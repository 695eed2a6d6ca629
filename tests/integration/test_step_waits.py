"""A training run waits for the GPU where it reads the loss, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_waits import DEVICES, no_waiting

from fastdeit.config import TrainConfig
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.models import make_model
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import eval_plan, open_pipeline, pipeline_options, train_plan
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.training import loop as train_module
from fastdeit.training.loop import train
from fastdeit.training.session import assemble
from fastdeit.training.steps import stand_in_teacher, usual_teacher
from fastdeit.training.telemetry import METRICS

SIDE, BATCH, STEPS = 64, 24, 5
NAMES = tuple(map(str, range(10)))
SMALL = {"depth": 2, "embed_dim": 96, "num_heads": 3}
RUNS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "demo-teacher": ("demo-teacher", {}),
    "demo": ("demo", {"run": {"compile": "off"}}),
    "demo, compiled": ("demo", {"run": {"compile": "auto"}}),
    "distilled, soft": (
        "deit-ti-distilled",
        {"model": SMALL, "distill": {"distillation": "soft"}, "run": {"compile": "off"}},
    ),
    "DeiT, in parts": (
        "deit-s",
        {
            "model": SMALL | {"drop_path_mode": "subset"},
            "optim": {"accumulate": 3, "clip_grad": 1.0},
            "run": {"compile": "off"},
        },
    ),
}


def config_of(
    recipe: str, changes: dict[str, dict[str, Any]], out: Path, device: str, **run: Any
) -> TrainConfig:
    """Two short epochs."""
    return changed(
        changed(fill_recipe(recipe, out), **changes),
        data={"batch_size": BATCH, "image_size": SIDE, "repeats": 1},
        optim={"epochs": 2, "warmup_epochs": 1},
        run={"device": device, "out": out, "log_every_steps": STEPS, **run},
    )


def train_run(config: TrainConfig, compute: Compute) -> None:
    """Train on synthetic images, with a teacher if there is one."""
    teacher = None
    if config.distill.distillation != "none":
        teacher = stand_in_teacher(config, len(NAMES), usual_teacher("demo"))
        teacher = compute.place(teacher)
    model = make_model(config.model, len(NAMES), SIDE)
    session = assemble(config, model, teacher, compute)
    index = synthetic_index(BATCH * STEPS, len(NAMES))
    options = pipeline_options(config.data, compute.device)
    plan = train_plan(config.data, index, config.run)
    val_plan = eval_plan(index, SIDE, 1.0, BATCH)
    with (
        open_pipeline(index, plan, "synthetic", options) as batches,
        open_pipeline(index, val_plan, "synthetic", options) as val_batches,
    ):
        train(config, session, batches, val_batches)


def test_a_late_compilation_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, with its cause, and only if it came after the first epoch."""
    compiled = 0

    def num_graphs() -> int:
        return compiled

    real, steps = train_module.train_step, 0

    def step(*args: Any) -> torch.Tensor:
        nonlocal compiled, steps
        steps += 1
        compiled += steps in (1, 2, STEPS + 2, STEPS + 3)
        return real(*args)

    monkeypatch.setattr(train_module, "train_step", step)
    monkeypatch.setattr("fastdeit.machine.torch_compile.num_graphs", num_graphs)
    monkeypatch.setattr("fastdeit.machine.torch_compile.last_cause", lambda: "a planted cause")
    monkeypatch.setattr(train_module, "choose_compile_mode", lambda *_: "default")
    config = config_of("demo-teacher", {}, tmp_path, "cpu", log_every_steps=1)
    train_run(config, choose_compute("cpu"))
    said = [line for line in capsys.readouterr().err.splitlines() if "compiled again" in line]
    assert len(said) == 1
    assert said[0].startswith("fastdeit: warning: a model was compiled again, ")
    assert "first time: a planted cause. Shapes" in said[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_waits_for_nothing(
    name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loader, augmentation and step, teacher and average included; the first of each may wait."""
    compute = choose_compute(device)
    config = config_of(*RUNS[name], tmp_path, device)
    real_step, real_augmented = train_module.train_step, train_module.augmented
    watched: list[str] = []

    def step(*args: Any) -> torch.Tensor:
        if "step" not in watched:  # kernels are chosen and compiled, constants are made
            watched.append("step")
            return real_step(*args)
        with no_waiting(compute.device):
            watched.append("step")
            return real_step(*args)

    def augmented(*args: Any) -> Iterator[Any]:
        made = real_augmented(*args)
        yield next(made)
        while True:
            with no_waiting(compute.device):
                batch = next(made, None)
            if batch is None:
                return
            watched.append("batch")
            yield batch

    monkeypatch.setattr(train_module, "train_step", step)
    monkeypatch.setattr(train_module, "augmented", augmented)
    train_run(config, compute)
    assert watched.count("step") == 2 * STEPS and watched.count("batch") == 2 * (STEPS - 1)
    assert (tmp_path / METRICS).exists()
