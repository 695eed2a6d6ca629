"""The optimiser, its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.optim import Lamb, param_groups_weight_decay
from torch import nn

from fastdeit.config import OptimConfig

Compat = Literal["none", "upstream"]


def make_optimizer(
    model: nn.Module, config: OptimConfig, batch_size: int, compat: Compat = "none"
) -> torch.optim.Optimizer:
    """Build an optimiser whose weight decay touches matrices only.

    The model's `no_weight_decay()` names, vectors and biases are not decayed. AdamW or SGD in
    torch's fused form, or timm's Lamb, whose gradients are first scaled to a norm of at most 1 as
    in the library that DeiT-III took (apex FusedLAMB). `batch_size` is over all processes.
    "upstream" decays the distillation token, which the published code does not name.
    """
    names: Any = getattr(model, "no_weight_decay", tuple)  # timm's transformers name what is exempt
    exempt = set(names())
    if compat == "upstream":
        exempt.discard("dist_token")
    groups = param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list=sorted(exempt)
    )
    lr = config.lr(batch_size)
    if config.optimizer == "sgd":
        # Source: timm optim/optim_factory.py, where "sgd" is Nesterov's.
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=True, fused=True)
    if config.optimizer == "lamb":
        lamb: torch.optim.Optimizer = Lamb(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
        return lamb
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def learning_rate(
    config: OptimConfig,
    batch_size: int,
    step: int,
    steps_per_epoch: int,
    compat: Compat = "none",
) -> float:
    """The learning rate of one step: linear warm-up, then a cosine over the whole run.

    `batch_size` is over all processes, `step` from 0 over the whole run. "upstream" moves once an
    epoch and one epoch late, as the published code does. Source: paper Table 9; timm
    CosineLRScheduler without warmup_prefix; deit main.py, which steps it after each epoch with that
    epoch's number.
    """
    peak = config.lr(batch_size)
    time = step / steps_per_epoch
    if compat == "upstream":
        time = max(0, step // steps_per_epoch - 1)
    if time < config.warmup_epochs:
        return config.warmup_lr + (peak - config.warmup_lr) * time / config.warmup_epochs
    progress = time / config.epochs
    return config.min_lr + 0.5 * (peak - config.min_lr) * (1 + math.cos(math.pi * progress))
