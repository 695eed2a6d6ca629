"""How many images a second one device trains: real steps of a recipe, timed."""

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
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.errors import UserError
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.models import make_model
from fastdeit.models.flops import Peak, forward_flops, peak_flops, train_flops
from fastdeit.models.trainable import set_trainable
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import choose_engine, open_pipeline, pipeline_options, train_plan
from fastdeit.recipes import fill_recipe
from fastdeit.training.loop import Timed, train_step
from fastdeit.training.session import Session, assemble
from fastdeit.training.teacher import load_teacher

NUM_CLASSES = 1000
"""Of synthetic images, as ImageNet has."""
TEACHER = ModelConfig(model="regnety_160")
"""Stands in where no teacher is given (the paper's best, Table 2)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured on one device."""

    img_per_s: float
    """Training."""
    batch_size: int
    """Images a step on this device."""
    num_steps: int
    """Timed steps, after the warm-up."""
    data: str
    """Where the images came from."""
    compute: Compute
    """Where it ran."""
    peak: Peak
    """Of the device."""
    mfu: float
    """Part of the peak that the model's operations took."""
    work: Work
    """Operations of one image."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one image."""

    train_flops: int
    """Training, the teacher included."""
    eval_flops: int
    """The student's forward pass."""
    teacher: str | None
    """Which teacher is counted, for the log."""


class TrainingSteps:
    """The steps of a training run, as many as are wanted, over one epoch after another."""

    def __init__(self, config: TrainConfig, session: Session, source: BatchSource) -> None:
        """Begin where the source is.

        Args:
            config: the recipe.
            session: what computes.
            source: the batches of this process.
        """
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

        Args:
            num_steps: how many.
            on_step: called after each step.

        Returns:
            (how long they took, how long of it the loader was waited for) in seconds.
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


def count_work(config: TrainConfig, stand_in: ModelConfig = TEACHER) -> Work:
    """Count what a step computes; nothing is run, no memory is taken.

    Args:
        config: the recipe.
        stand_in: the teacher of a distilled one.
    """
    size = config.data.image_size
    trained, evaluated = _operations(config.model, config.optim.trainable, size)
    if not is_taught(config):
        return Work(trained, evaluated, None)
    _, answered = _operations(stand_in, "all", size)
    return Work(trained + answered, evaluated, random_weights(stand_in))


@functools.cache
def _operations(
    config: ModelConfig, trainable: Literal["all", "classifier"], image_size: int
) -> tuple[int, int]:
    """Of training and of evaluating a model on one image."""
    with torch.device("meta"):
        model = make_model(config, NUM_CLASSES, image_size)
        set_trainable(model, trainable)
    return train_flops(model, None, image_size), forward_flops(model, image_size)


def work_of(config: TrainConfig, model: nn.Module, teacher: nn.Module | None, name: str) -> Work:
    """The same for models that exist."""
    size = config.data.image_size
    trained = train_flops(model, teacher, size)
    return Work(trained, forward_flops(model, size), None if teacher is None else name)


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


def measure_pace(
    config: TrainConfig,
    num_devices: int,
    num_steps: int,
    data: Path | None,
    teacher: Path | None,
    on_step: Callable[[], None],
    stand_in: ModelConfig = TEACHER,
) -> Pace:
    """Train for some steps and time them.

    Args:
        config: the recipe, for the whole run.
        num_devices: how many share its batch; this one takes one share, rounded up.
        num_steps: timed steps; `num_warm_up` more come before.
        data: a dataset to decode, or None for synthetic images on the device.
        teacher: checkpoint of the teacher of a distilled recipe; None takes `stand_in` with random
            weights.
        on_step: called after each step.
        stand_in: which model that is.

    Raises:
        UserError: the model, the data, the teacher or the device cannot be had, or the share of a
            step does not fit into the device's memory.
    """
    compute = choose_compute(config.run.device, config.run.precision)
    share = -(-config.data.batch_size // num_devices)
    local = replace(config, data=replace(config.data, batch_size=share))
    # ---- what is trained -----------------------------------------------------------------------
    names: tuple[str, ...] = tuple(map(str, range(NUM_CLASSES)))
    if teacher is not None:
        names = tuple(load_checkpoint(teacher)["class_names"])
    index = synthetic_index(max(256, share * 8), len(names))
    if data is not None:
        index = open_dataset(data)
        names = index.class_names
    plan = train_plan(local.data, index, local.run)
    model = make_model(local.model, len(names), local.data.image_size, local.run.seed)
    taught_by: nn.Module | None = None
    if teacher is not None:
        given = replace(local, distill=replace(local.distill, teacher=teacher))
        taught_by = load_teacher(given, names, compute)
    elif is_taught(local):
        taught_by = compute.place(stand_in_teacher(local, len(names), stand_in))
    teacher_name = random_weights(stand_in) if teacher is None else str(teacher)
    work = work_of(local, model, taught_by, teacher_name)
    engine = "synthetic" if data is None else local.data.engine
    # ---- steps ---------------------------------------------------------------------------------
    with open_pipeline(index, plan, engine, pipeline_options(local.data, compute.device)) as source:
        with in_memory(share, compute, ", or more --gpus"):
            steps = TrainingSteps(local, assemble(local, model, taught_by, compute), source)
            steps.take(num_warm_up(compute.device), on_step)
            seconds, _ = steps.take(num_steps, on_step)
    rate = share * num_steps / seconds
    peak = peak_flops(compute)
    return Pace(
        img_per_s=rate,
        batch_size=share,
        num_steps=num_steps,
        data="synthetic" if data is None else f"{data} through {choose_engine(index, engine).name}",
        compute=compute,
        peak=peak,
        mfu=rate * work.train_flops / peak.flops_per_s,
        work=work,
    )


def num_warm_up(device: torch.device) -> int:
    """Steps before the clock starts: on a GPU kernels are compiled and chosen in the first ones."""
    return 10 if device.type == "cuda" else 1


@contextmanager
def in_memory(num_images: int, compute: Compute, way_out: str = "") -> Iterator[None]:
    """Say in one line that a step does not fit into the device's memory.

    Args:
        num_images: images of the step on this device.
        compute: the device.
        way_out: what helps beside a smaller batch.

    Raises:
        UserError: it does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a device's share of a step must fit into its memory. Found: {num_images} images, "
            f"too many for {compute.device}. Pass a smaller --batch-size{way_out}."
        ) from error


def endless(source: BatchSource) -> Generator[Batch, None, None]:
    """The batches of one epoch after another."""
    while True:
        yield from source
