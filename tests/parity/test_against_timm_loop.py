"""Twenty steps of our loop against a plain one that is built from timm's own parts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from augment_batches import make_batch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEma

from fastdeit.augment import augment, augmented
from fastdeit.checkpoints.classes import Classes, numbered_classes
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.recipes import RECIPES
from fastdeit.training import session as session_module
from fastdeit.training.loop import train_step
from fastdeit.training.optim import learning_rate
from fastdeit.training.session import Session, make_session
from fastdeit.training.teacher import Teacher

NUM_CLASSES = 11
SIZE, BATCH, STEPS, STEPS_PER_EPOCH = 32, 12, 20, 10
DEIT = ModelConfig(model="deit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3)
DISTILLED = replace(DEIT, model="deit_tiny_distilled_patch16_224")


def config_of(model: ModelConfig, **optim: Any) -> TrainConfig:
    """The paper's recipe, for a small model and a short run."""
    where = Path("x")
    recipe = RECIPES["demo"](where, where, where, where)
    distill = recipe.distill if model.is_distilled else replace(
        recipe.distill, distillation="none", teacher=None
    )  # fmt: skip
    return replace(
        recipe,
        data=replace(recipe.data, batch_size=BATCH, image_size=SIZE),
        model=model,
        distill=distill,
        optim=replace(recipe.optim, epochs=5, warmup_epochs=1, ema_decay=0.9, **optim),
    )


def run_ours(config: TrainConfig, session: Session) -> list[float]:
    """The losses of twenty steps."""
    batches = [
        replace(make_batch(BATCH, SIZE, step), epoch=step // STEPS_PER_EPOCH,
                step=step % STEPS_PER_EPOCH)
        for step in range(STEPS)
    ]  # fmt: skip
    losses = []
    for step, batch in enumerate(augmented(batches, config.augment, 0, session.compute)):
        lr = learning_rate(config.optim, BATCH, step, STEPS_PER_EPOCH)
        losses.append(train_step(config, session, batch, lr).item())
    return losses


def run_timms(
    config: TrainConfig, model: torch.nn.Module, teacher: torch.nn.Module | None
) -> tuple[list[float], torch.nn.Module]:
    """The same with timm's optimizer groups, mixed targets, loss, scheduler and average."""
    optimizer = create_optimizer_v2(
        model,
        opt=config.optim.optimizer,
        lr=config.optim.lr(BATCH),
        weight_decay=0.05,
        eps=1e-8 if config.optim.optimizer == "adamw" else None,
        momentum=0.9,
    )
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=5 * STEPS_PER_EPOCH,
        lr_min=config.optim.min_lr,
        warmup_t=STEPS_PER_EPOCH,
        warmup_lr_init=config.optim.warmup_lr,
        t_in_epochs=False,
    )
    average = ModelEma(model, decay=0.9)
    criterion = SoftTargetCrossEntropy()
    losses = []
    for step in range(STEPS):
        batch = replace(
            make_batch(BATCH, SIZE, step),
            epoch=step // STEPS_PER_EPOCH,
            step=step % STEPS_PER_EPOCH,
        )
        shown = augment(batch, config.augment, 0)
        lam = float(shown.targets.weight[0])
        targets = mixup_target(batch.labels, NUM_CLASSES, lam, config.augment.smoothing)
        scheduler.step_update(step)
        output = model(shown.images)
        if teacher is None:
            loss = criterion(output, targets)
        else:
            taught = teacher(shown.images).argmax(1)
            loss = 0.5 * criterion(output[0], targets) + 0.5 * F.cross_entropy(output[1], taught)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        losses.append(loss.item())
    return losses, average.ema


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", ["deit", "distilled", "convnet"])
def test_twenty_steps(kind: str, accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to 1e-5; weights and averages to 1e-4 of the largest of their tensor."""
    if kind == "convnet" and accumulate > 1:
        pytest.skip("batch norm sees the parts")
    model = {"deit": DEIT, "distilled": DISTILLED, "convnet": ModelConfig(model="test_resnet")}
    # AdamW would make steps of noise where a bias before batch norm has next to no gradient.
    optimizer = "sgd" if kind == "convnet" else "adamw"
    config = config_of(model[kind], accumulate=accumulate, optimizer=optimizer)
    torch.manual_seed(3)
    teacher = None
    if kind == "distilled":
        linear = torch.nn.Linear(3 * SIZE**2, NUM_CLASSES)
        teacher = Teacher(torch.nn.Sequential(torch.nn.Flatten(), linear), SIZE)
    monkeypatch.setattr(session_module, "load_teacher", lambda *_: teacher)
    session = make_session(config, Classes(numbered_classes(NUM_CLASSES)))
    plain = copy.deepcopy(session.model)
    found = run_ours(config, session)
    expected, average = run_timms(config, plain, teacher)
    assert found == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0]
    assert session.ema is not None
    for ours, theirs in ((session.model, plain), (session.ema.module, average)):
        for name, value in theirs.state_dict().items():
            if not value.is_floating_point():
                continue
            found_value, value = (drop_noise(name, t) for t in (ours.state_dict()[name], value))
            # Gradients of what batch norm cancels are rounding of 1e-9 and less.
            near = max(1e-4 * value.abs().max().item(), 1e-9)
            assert torch.allclose(found_value, value, rtol=0, atol=near), name


def drop_noise(name: str, value: torch.Tensor) -> torch.Tensor:
    """A parameter without the keys' biases, which softmax cancels: their gradient is rounding."""
    if name.endswith("qkv.bias"):
        query, _, values = value.chunk(3)
        return torch.cat((query, values))
    return value
