"""Steps of training by themselves: taken, counted, and what a distilled recipe needs for them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fastdeit.augment import augmented
from fastdeit.batch import Batch, BatchSource
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.errors import UserError
from fastdeit.machine.device import Compute
from fastdeit.models import make_model
from fastdeit.models.flops import forward_flops, train_flops
from fastdeit.models.trainable import set_trainable
from fastdeit.recipes import fill_recipe
from fastdeit.training.loop import Timed, train_step
from fastdeit.training.session import Session

Trainable = Literal["all", "classifier"]
NUM_CLASSES = 1000
"""Of synthetic images, as ImageNet has."""
TEACHER = ModelConfig(model="regnety_160")
"""Stands in where no teacher is given (the paper's best, Table 2)."""


class TrainingSteps:
    """The steps of a training run, as many as are wanted, over one epoch after another."""

    def __init__(self, config: TrainConfig, session: Session, source: BatchSource) -> None:
        """Begin where the source, the batches of this process, is."""
        self._config, self._session, self._source = config, session, source
        self._num_taken = 0
        self._begin()

    def _begin(self) -> None:
        self._stream = endless(self._source)
        self._loader = Timed(self._stream)
        augment, seed = self._config.augment, self._config.run.seed
        self._batches = augmented(self._loader, augment, seed, self._session.compute)

    def take(
        self, num_steps: int, on_step: Callable[[], None] = lambda: None
    ) -> tuple[float, float]:
        """Take steps as training does, and wait for the device.

        Seconds: (how long they took, how long of it the loader was waited for).
        """
        config, compute = self._config, self._session.compute
        self._loader.seconds = 0.0
        started = time.perf_counter()
        for _ in range(num_steps):
            train_step(config, self._session, next(self._batches), config.optim.warmup_lr)
            if self._num_taken % config.run.log_every_steps == 0:
                compute.synchronize()  # where training reads the loss
            self._num_taken += 1
            on_step()
        compute.synchronize()
        return time.perf_counter() - started, self._loader.seconds

    def rest(self) -> None:
        """End the pass over the source, so that nothing is read ahead; `take` begins another."""
        self._stream.close()
        self._begin()


def endless(source: BatchSource) -> Generator[Batch, None, None]:
    """The batches of one epoch after another."""
    while True:
        yield from source


@contextmanager
def in_memory(num_images: int, compute: Compute, way_out: str = "") -> Iterator[None]:
    """Raise a UserError where a step of so many images does not fit into the device's memory.

    `way_out` is what helps beside a smaller batch.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a device's share of a step must fit into its memory. Found: {num_images} images, "
            f"too many for {compute.device}. Pass a smaller --batch-size{way_out}."
        ) from error


# ---- what they compute -------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one image, and what is averaged in a step."""

    train_flops: int
    """Training, the teacher included."""
    eval_flops: int
    """The student's forward pass."""
    backward_flops: int
    """Its backward pass; less than two forward passes where a part of it is frozen."""
    gradient_bytes: int
    """Of all gradients, in float32."""


def _count(config: ModelConfig, trainable: Trainable, image_size: int) -> Work:
    # What is left out while training is in the model that is counted all the same.
    whole = replace(
        config, drop_path=0.0, drop_path_decay="linear", drop_path_mode="mask", dropout=0.0
    )
    return _counted(whole, trainable, image_size)


@functools.cache
def _counted(config: ModelConfig, trainable: Trainable, image_size: int) -> Work:
    with torch.device("meta"):  # no weights: shapes only
        model = make_model(config, NUM_CLASSES, image_size)
        set_trainable(model, trainable)
    return work_of(model, None, image_size)


def count_work(config: TrainConfig, stand_in: ModelConfig = TEACHER) -> Work:
    """Count what a step computes with `stand_in` as its teacher; no memory is taken."""
    size = config.data.image_size
    work = _count(config.model, config.optim.trainable, size)
    if not is_taught(config):
        return work
    answered = _count(stand_in, "all", size).eval_flops
    return replace(work, train_flops=work.train_flops + answered)


def work_of(model: nn.Module, teacher: nn.Module | None, image_size: int) -> Work:
    """The same for models that exist."""
    num_trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    forward, trained = forward_flops(model, image_size), train_flops(model, None, image_size)
    answered = 0 if teacher is None else forward_flops(teacher, image_size)
    return Work(trained + answered, forward, trained - forward, 4 * num_trained)


# ---- teachers ----------------------------------------------------------------------------------
def is_taught(config: TrainConfig) -> bool:
    """Whether a teacher runs in each step."""
    distill = config.distill
    return distill.distillation != "none" and distill.teacher_labels is None


def usual_teacher(recipe: str) -> ModelConfig:
    """Which model teaches a distilled recipe: a small one `demo`, `TEACHER` all others."""
    return fill_recipe("demo-teacher", Path()).model if recipe == "demo" else TEACHER


def random_weights(stand_in: ModelConfig) -> str:
    """What a stand-in is called in the log."""
    return f"{stand_in.model} with random weights"


def stand_in_teacher(
    config: TrainConfig, num_classes: int, stand_in: ModelConfig = TEACHER
) -> nn.Module:
    """The teacher's architecture with random weights, on the CPU: as fast as a trained one."""
    teacher = make_model(stand_in, num_classes, config.data.image_size)
    return teacher.eval().requires_grad_(False)
