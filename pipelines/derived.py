"""What follows from a configuration and its plan: steps, images, learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastdeit.config import TrainConfig
from fastdeit.pipelines.plan import Plan


@dataclass(frozen=True, slots=True)
class Derived:
    """Numbers that no option gives, and that training will have."""

    peak_lr: float
    """Learning rate at the end of the warm-up."""
    steps_per_epoch: int
    """Optimiser steps an epoch."""
    num_steps: int
    """Optimiser steps of the whole run."""
    images_per_epoch: int
    """Images shown in an epoch, repeats counted, over all processes."""
    distinct_images_per_epoch: int
    """Different images among them, in the first epoch."""
    num_train_images: int
    """Images of the training set."""
    num_processes: int
    """How many processes share a step."""
    images_per_process: int
    """Images of a step that a process gets, at most."""
    images_at_once: int
    """Images that a process computes at once, at most; fewer with --accumulate."""


def derive(config: TrainConfig, plan: Plan) -> Derived:
    """Work out what follows.

    Args:
        config: everything that decides the run.
        plan: of training, from `train_plan`, whose arithmetic this is.
    """
    shown = plan.num_steps * plan.batch_size
    samples, _ = plan.stream(0)
    return Derived(
        peak_lr=config.optim.lr(plan.batch_size),
        steps_per_epoch=plan.num_steps,
        num_steps=config.optim.epochs * plan.num_steps,
        images_per_epoch=shown,
        distinct_images_per_epoch=len(np.unique(samples[:shown])),
        num_train_images=len(plan.keys),
        num_processes=plan.world_size,
        images_per_process=plan.max_local_batch,
        images_at_once=-(-plan.max_local_batch // config.optim.accumulate),
    )
