"""Where the time of a training step goes."""

from __future__ import annotations

import torch

from fastdeit.augment import augment
from fastdeit.batch import BatchSource
from fastdeit.config import TrainConfig
from fastdeit.phases import PhaseClock
from fastdeit.pipelines.pace import endless
from fastdeit.session import Session
from fastdeit.train import train_step

PHASE_STEPS = {"cpu": 3, "cuda": 20}
"""Steps of the pass that looks at the parts."""


def step_phases(config: TrainConfig, session: Session, source: BatchSource) -> dict[str, float]:
    """Milliseconds of the parts of a step, one after another, in a pass of its own.

    Here nothing overlaps; in training the next batch is augmented while a step runs.

    Args:
        config: the recipe.
        session: takes the steps.
        source: its batches.

    Returns:
        Data wait (on the host), augmentation, forward, backward, optimizer, and average if there
        is one, in their order; on a GPU as its events say.
    """
    compute = session.compute
    num_steps = PHASE_STEPS[compute.device.type]
    clock, stream = PhaseClock(compute), endless(source)
    dtype = compute.autocast_dtype or torch.float32
    next(stream)
    with clock.running():
        for _ in range(num_steps):
            with clock.on_host("data wait"):
                batch = next(stream)
            with clock.span("augmentation"):
                shown = augment(batch.to(compute.device), config.augment, config.run.seed, 0, dtype)
            train_step(config, session, shown, config.optim.warmup_lr)
    stream.close()
    return {name: total / num_steps for name, total in clock.milliseconds().items()}
