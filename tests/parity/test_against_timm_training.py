"""Losses, parameter groups, schedule and model options against timm's own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from augment_batches import make_batch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEma as TimmEma

from fastdeit.augment import MixedTargets, augment, dense_targets
from fastdeit.checkpoints.classes import Classes, numbered_classes
from fastdeit.config import ModelConfig, OptimConfig
from fastdeit.config.augment import AugmentConfig
from fastdeit.models import make_model
from fastdeit.recipes import RECIPES
from fastdeit.training.ema import ModelEma
from fastdeit.training.loop import train_step
from fastdeit.training.losses import mixed_binary_cross_entropy
from fastdeit.training.optim import learning_rate, make_optimizer
from fastdeit.training.session import make_session

NUM_CLASSES = 11


def test_binary_cross_entropy_is_deits() -> None:
    """As the published code: BCEWithLogitsLoss where timm's mixed targets are above 0."""
    logits = torch.randn(6, NUM_CLASSES) * 4
    labels = torch.tensor([1, 2, 2, 5, 2, 9])  # the middle two share their label
    for shares in ([0.3] * 6, [1.0] * 6, [0.0] * 6, [0.2, 1.0, 0.4, 0.4, 0.0, 0.7]):
        weight = torch.tensor(shares)
        targets = MixedTargets(labels, labels.flip(0), weight)
        dense = dense_targets(targets, NUM_CLASSES, 0.0).gt(0.0).float()
        expected = torch.nn.BCEWithLogitsLoss()(logits, dense)
        assert mixed_binary_cross_entropy(logits, targets).item() == pytest.approx(
            expected.item(), abs=1e-6
        )


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("clip_grad", [0.0, 0.05])
def test_loss_and_clipping_reach_the_step(loss: Any, clip_grad: float) -> None:
    """A step takes the loss that was asked for, and its gradients are no longer than allowed."""
    where = Path("x")
    config = RECIPES["demo-teacher"](where, where, where)
    config = replace(
        config,
        augment=AugmentConfig(smoothing=0.0),
        optim=replace(config.optim, loss=loss, clip_grad=clip_grad),
    )
    config = replace(config, data=replace(config.data, batch_size=8))
    session = make_session(config, Classes(numbered_classes(NUM_CLASSES)))
    batch = augment(make_batch(8, 64), config.augment, 0)
    logits = copy.deepcopy(session.model)(batch.images)
    dense = dense_targets(batch.targets, NUM_CLASSES, 0.0)
    if loss == "bce":
        expected = torch.nn.BCEWithLogitsLoss()(logits, dense.gt(0.0).float())
    else:
        expected = SoftTargetCrossEntropy()(logits, dense)
    found = train_step(config, session, batch, 1e-3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    model = session.model
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    if clip_grad:
        assert norm.item() == pytest.approx(clip_grad, rel=1e-3)
    else:
        assert norm.item() > 0.1


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


def test_upstreams_schedule_is_an_epoch_late() -> None:
    """With --compat upstream: timm's scheduler, stepped after each epoch with its number."""
    config = OptimConfig(epochs=20, warmup_epochs=5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr(1024))
    schedule = CosineLRScheduler(
        optimizer, t_initial=20, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    for epoch in range(20):
        expected = optimizer.param_groups[0]["lr"]
        for step in (7 * epoch, 7 * epoch + 6):
            found = learning_rate(config, 1024, step, 7, "upstream")
            assert found == pytest.approx(expected, rel=1e-12), epoch
        schedule.step(epoch)


def test_upstream_decays_the_distillation_token() -> None:
    """The published code names position embedding and class token only."""
    where = Path("x")
    model = make_model(RECIPES["demo"](where, where, where, where).model, NUM_CLASSES, 64)
    for compat, decayed in (("none", set()), ("upstream", {"dist_token"})):
        optimizer = make_optimizer(model, OptimConfig(), 512, compat)  # type: ignore[arg-type]
        kept = {
            id(p)
            for group in optimizer.param_groups
            if group["weight_decay"] == 0
            for p in group["params"]
        }
        tokens = {"dist_token", "cls_token", "pos_embed"}
        named = dict(model.named_parameters())
        assert {name for name in tokens if id(named[name]) not in kept} == decayed


def test_sgd_is_timms() -> None:
    """Ten steps of --optimizer sgd give the weights of timm's "sgd", which is Nesterov's."""
    config = OptimConfig(optimizer="sgd", momentum=0.8, base_lr=0.05, scale_lr=False)
    ours = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5))
    theirs = copy.deepcopy(ours)
    optimizers = (
        make_optimizer(ours, config, 64),
        create_optimizer_v2(theirs, opt="sgd", lr=0.05, momentum=0.8, weight_decay=0.05),
    )
    for step in range(10):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


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
