"""What computes in a run, made and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastdeit.checkpoints.classes import Classes, read_classes, require_classes
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.errors import UserError, require
from fastdeit.machine.attention import choose_attention
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.machine.distributed import World, say
from fastdeit.machine.torch_compile import begin_compiling
from fastdeit.models import make_model, set_distilled_training
from fastdeit.models.initialise import initialise_from
from fastdeit.models.trainable import set_trainable
from fastdeit.training.ema import ModelEma
from fastdeit.training.optim import make_optimizer
from fastdeit.training.resume import Position, load_run, restore
from fastdeit.training.teacher import Answers, load_teacher


@dataclass(frozen=True, slots=True)
class Session:
    """What computes in a run."""

    compute: Compute
    model: nn.Module
    """As it is saved and evaluated."""
    forward: nn.Module
    """The same model as a step calls it: compiled, and adding up gradients over processes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    teacher: nn.Module | None = None
    """Gives logits of the student's images; frozen, compiled as the model is."""
    answers: Answers | None = None
    """What the teacher said before, in place of `teacher`."""
    class_weights: Tensor | None = None
    """(K,) float32 on the device, the weight of each class in the loss; None if all are alike."""
    teacher_model: str | None = None
    """timm's name of the teacher in either form; None without one."""
    ema: ModelEma | None = None
    world: World = field(default_factory=World)
    classes: Classes = field(default_factory=lambda: Classes(()))
    """One for each output: of a run that goes on as it began, whatever order the set has now."""
    position: Position = field(default_factory=Position)
    """Where the run begins or goes on."""


def make_session(
    config: TrainConfig,
    classes: Classes,
    compute: Compute | None = None,
    world: World | None = None,
) -> Session:
    """Choose the device, build the model, load the teacher; restore a run that goes on.

    Args:
        config: everything that decides the run.
        classes: one for each output of the model, those of the training set.
        compute: where this process computes; None chooses by the configuration.
        world: the processes of the job; None for this one alone.

    Raises:
        UserError: the device, the model or the teacher cannot be had, or the run cannot go on, as
            with other classes.
    """
    world = world or World()
    content = load_run(config, world)
    compute = compute or choose_compute(config.run.device, config.run.precision)
    if content is not None:
        classes = _classes_of_run(content, classes, config)
    model = make_model(config.model, len(classes), config.data.image_size, config.run.seed)
    if config.init_from is not None and content is None:
        checkpoint = load_checkpoint(config.init_from)
        became = initialise_from(model, checkpoint, classes, config.init_weights)
        if world.is_main:
            say(f"{config.init_from}: {became}")
    teacher = load_teacher(config, classes, compute, world.is_main)
    session = assemble(config, model, teacher, compute, world, content)
    name = None if teacher is None else teacher.name
    return replace(session, classes=classes, teacher_model=name)


def _classes_of_run(content: dict[str, Any], now: Classes, config: TrainConfig) -> Classes:
    """The classes that a run goes on with: in the order in which it began."""
    began = read_classes(content)
    located = require_classes(
        now,
        began,
        "a run goes on with the classes that it began with",
        (str(config.data.train), f"the run in {config.run.out}"),
        "Give the same training set, or another --out.",
    )
    return now if located.is_in_order else began


def assemble(
    config: TrainConfig,
    model: nn.Module,
    teacher: nn.Module | None,
    compute: Compute,
    world: World | None = None,
    content: dict[str, Any] | None = None,
) -> Session:
    """Put together what computes, from a model on the CPU, which is moved to the device.

    The teacher is there already. None of `world` is this process alone; `content` is the checkpoint
    of a run that goes on. Raises UserError if the model cannot do what the configuration asks.
    """
    world = world or World()
    compute = choose_attention(config.run.attention, model, compute)
    compiled = begin_compiling(config, compute)
    model = compute.place(model).train()
    set_distilled_training(model)
    set_trainable(model, config.optim.trainable)
    if config.run.activation_checkpointing:
        _checkpoint_activations(model, config.model.model)
    optimizer = make_optimizer(model, config.optim, config.data.batch_size, config.run.compat)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.scales_loss)
    ema = ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay > 0 else None
    position = Position()
    if content is not None:
        position = restore(content, model, optimizer, scaler, ema)
    return Session(
        compute=compute,
        model=model,
        forward=compiled(world.wrap(model, config.optim.accumulate > 1)),
        optimizer=optimizer,
        scaler=scaler,
        teacher=None if teacher is None else compiled(teacher),
        ema=ema,
        world=world,
        position=position,
    )


def _checkpoint_activations(model: nn.Module, name: str) -> None:
    for layer in model.modules():
        require(
            not isinstance(layer, nn.modules.batchnorm._BatchNorm),
            "activation_checkpointing",
            name,
            "would move the running averages of batch norm twice a step",
            "Leave out --activation-checkpointing.",
        )
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, TypeError) as error:
        raise UserError(
            f"activation_checkpointing must be something that the model can do. Found: {name}, for "
            "which timm has none. Leave out --activation-checkpointing."
        ) from error
