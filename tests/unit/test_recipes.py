"""The paper's recipes: its Table 9 number by number, its sizes, and two steps of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from augment_batches import NUM_CLASSES, make_batch

from fastdeit.config import TrainConfig
from fastdeit.device import choose_compute
from fastdeit.models import make_model, num_parameters
from fastdeit.optim import make_optimizer
from fastdeit.recipes import RECIPES
from fastdeit.train import train_step

PAPERS = {"deit-ti": 5_717_416, "deit-s": 22_050_664, "deit-b": 86_567_656}
"""Recipes of the paper, and how many parameters their models have (Table 1: 5M, 22M, 86M)."""


def recipe_of(name: str) -> TrainConfig:
    """A recipe with places filled in."""
    return RECIPES[name](Path("train"), Path("val"), Path("out"))


@pytest.mark.parametrize("name", PAPERS)
def test_table_9(name: str) -> None:
    """Every number of the column DeiT-B."""
    config = recipe_of(name)
    data, augment, optim = config.data, config.augment, config.optim
    assert (optim.epochs, data.batch_size, data.repeats, data.image_size) == (300, 1024, 3, 224)
    assert optim.lr(1024) == pytest.approx(0.0005 * 1024 / 512)
    assert (optim.weight_decay, optim.warmup_epochs, optim.clip_grad) == (0.05, 5, 0)
    assert (augment.smoothing, config.model.drop_path) == (0.1, 0.1)
    assert augment.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.mixup_alpha, augment.cutmix_alpha, augment.erase_prob) == (0.8, 1.0, 0.25)
    assert (optim.loss, optim.ema_decay) == ("ce", 0.99996)
    assert not config.model.is_distilled


@pytest.mark.parametrize("name", PAPERS)
def test_parameters(name: str) -> None:
    """The models have the paper's sizes."""
    with torch.device("meta"):
        model = make_model(recipe_of(name).model, 1000, 224)
    assert num_parameters(model) == PAPERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_two_steps(name: str) -> None:
    """The recipe builds and takes two steps whose loss is a number."""
    config = recipe_of(name)
    compute = choose_compute("cpu", "fp32")
    model = make_model(config.model, NUM_CLASSES, 224, 0).train()
    optimizer = make_optimizer(model, config.optim, 1024)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(2):
        batch = replace(make_batch(2, 224, step), step=step)
        loss = train_step(config, model, None, optimizer, batch, compute)
        assert torch.isfinite(loss)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
