"""AdamW's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from fastdeit.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig, batch_size: int) -> torch.optim.AdamW:
    """Build a fused AdamW whose weight decay touches matrices only.

    Args:
        model: its `no_weight_decay()` names, vectors and biases are not decayed.
        config: learning rate and decay.
        batch_size: images a step over all processes, which scales the learning rate.

    Note: timm's `no_weight_decay` names dist_token too, where that of the paper's code did not.
    """
    names: Any = getattr(model, "no_weight_decay", tuple)  # timm's transformers name what is exempt
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=names())
    return torch.optim.AdamW(
        groups, lr=config.lr(batch_size), betas=(0.9, 0.999), eps=1e-8, fused=True
    )


def learning_rate(config: OptimConfig, batch_size: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step: linear warm-up, then a cosine over the whole run.

    Args:
        config: peak, ends and lengths.
        batch_size: images a step over all processes.
        step: from 0, over the whole run.
        steps_per_epoch: converts the lengths, given in epochs.

    Source: paper Table 9; timm CosineLRScheduler without warmup_prefix. Per step, where the
        published code moves once an epoch and one epoch late.
    """
    peak = config.lr(batch_size)
    warmup_steps = config.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return config.warmup_lr + (peak - config.warmup_lr) * step / warmup_steps
    progress = step / (config.epochs * steps_per_epoch)
    return config.min_lr + 0.5 * (peak - config.min_lr) * (1 + math.cos(math.pi * progress))
