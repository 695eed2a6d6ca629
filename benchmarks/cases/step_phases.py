"""The parts of a step: how long each takes, and how much memory the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdeit.augment import AugmentedBatch, augment
from fastdeit.batch import BatchSource
from fastdeit.config import TrainConfig
from fastdeit.machine.device import Compute
from fastdeit.measured.phases import PhaseClock
from fastdeit.measured.trace import traced_steps
from fastdeit.training.loop import train_step
from fastdeit.training.session import Session
from fastdeit.training.steps import TrainingSteps, endless


@dataclass(slots=True)
class Memory:
    """How much GPU memory a case takes at most, without that of the others."""

    compute: Compute
    peak_gib: float | None = None
    """In the first round, its models included; None on a CPU."""
    _built: int = field(default=0)

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is allocated here belongs to the case."""
        before = self._allocated()
        yield
        self._built += self._allocated() - before

    @contextmanager
    def working(self) -> Iterator[None]:
        """A round."""
        if self.compute.device.type != "cuda" or self.peak_gib is not None:
            yield
            return
        before = self._allocated()
        torch.cuda.reset_peak_memory_stats(self.compute.device)
        yield
        peak = torch.cuda.max_memory_allocated(self.compute.device)
        self.peak_gib = (self._built + peak - before) / 2**30

    def _allocated(self) -> int:
        is_gpu = self.compute.device.type == "cuda"
        return torch.cuda.memory_allocated(self.compute.device) if is_gpu else 0


PHASE_STEPS = {"cpu": 3, "cuda": 20}
"""Steps of the pass that looks at the parts."""


def step_phases(config: TrainConfig, session: Session, source: BatchSource) -> dict[str, float]:
    """Milliseconds of the parts of a step, one after another, in a pass of its own.

    Data wait (on the host), augmentation, forward, backward, optimizer, and average if there is
    one; on a GPU as its events say. Nothing overlaps; in training the next batch is augmented while
    a step runs.
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


def write_trace(path: Path, steps: TrainingSteps, compute: Compute) -> None:
    """Profile one step by torch, after one under the profiler that is not kept."""
    with traced_steps(path, 1, compute, warm_up=1) as after_step:
        for _ in range(2):
            steps.take(1)
            after_step()


def count_flops(config: TrainConfig, session: Session, batch: AugmentedBatch) -> int:
    """Floating-point operations of one step, counted by torch while it is taken."""
    with FlopCounterMode(display=False) as counter:
        train_step(config, session, batch, config.optim.warmup_lr)
    return int(counter.get_total_flops())
