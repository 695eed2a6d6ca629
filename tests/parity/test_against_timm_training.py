"""Losses, parameter groups, schedule and model options against timm's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEma as TimmEma

from fastdeit.config import ModelConfig, OptimConfig
from fastdeit.ema import ModelEma
from fastdeit.losses import hard_distillation_loss
from fastdeit.models import make_model
from fastdeit.optim import learning_rate, make_optimizer
from fastdeit.recipes import RECIPES

NUM_CLASSES = 11


def test_hard_distillation_is_equation_3() -> None:
    """Half the label's cross-entropy, half that with the teacher's decision, in float64 numpy."""
    class_logits, dist_logits, teacher_logits = torch.randn(3, 4, NUM_CLASSES)
    labels = torch.tensor([1, 2, 3, 4])
    class_loss = F.cross_entropy(class_logits, labels)
    found = hard_distillation_loss(class_loss, dist_logits, teacher_logits)

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
        values = logits.double().numpy()
        log_sum = np.log(np.exp(values).sum(1))
        return float((log_sum - values[np.arange(4), targets.numpy()]).mean())

    expected = 0.5 * cross_entropy(class_logits, labels)
    expected += 0.5 * cross_entropy(dist_logits, teacher_logits.argmax(1))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_only_matrices_are_decayed() -> None:
    """Vectors, biases, both tokens and the position embedding have no weight decay."""
    where = Path("x")
    config = RECIPES["demo"](where, where, where, where)
    model = make_model(config.model, NUM_CLASSES, 64)
    optimizer = make_optimizer(model, OptimConfig(), 512)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith(".weight") and parameter.ndim >= 2
        assert decay[id(parameter)] == (0.05 if is_matrix else 0.0), name
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_against_timm_cosine_schedule() -> None:
    """Learning rates equal timm's CosineLRScheduler stepped by updates, warm-up included."""
    config = OptimConfig(epochs=20, warmup_epochs=5)
    steps_per_epoch = 7
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr(1024))
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=20 * steps_per_epoch,
        lr_min=1e-5,
        warmup_t=5 * steps_per_epoch,
        warmup_lr_init=1e-6,
        t_in_epochs=False,
    )
    for step in range(20 * steps_per_epoch):
        schedule.step_update(step)
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(config, 1024, step, steps_per_epoch) == pytest.approx(expected), step


def test_drop_path_reaches_the_model() -> None:
    """The option changes what timm builds: the deepest block drops at the rate given."""
    config = ModelConfig(model="deit_tiny_patch16_224", depth=3, drop_path=0.1)
    model = make_model(config, 5, 32)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.05, 0.1])


def test_against_timm_ema() -> None:
    """After thirty steps the average equals timm's, buffers included; counters are copied."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))
    ours, theirs = ModelEma(model, 0.9), TimmEma(model, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
        ours.update()
        theirs.update(model)
    expected = theirs.ema.state_dict()
    assert not torch.equal(expected["0.weight"], model[0].weight)
    for name, value in ours.module.state_dict().items():
        if name == "1.num_batches_tracked":
            assert value == 30
        else:
            assert torch.allclose(value, expected[name], atol=1e-6, rtol=1e-5), name
    assert not ours.module.training
    assert not any(p.requires_grad for p in ours.module.parameters())
