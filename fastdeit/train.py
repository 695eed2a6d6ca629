"""The training loop, top to bottom: `fastdeit train` -> `train` -> `train_step`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdeit import keyed
from fastdeit.augment import apply_augmentation, sample_augmentation
from fastdeit.batch import Batch, BatchSource
from fastdeit.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.device import Compute, choose_compute
from fastdeit.ema import ModelEma
from fastdeit.errors import UserError
from fastdeit.evaluate import Evaluation, evaluate
from fastdeit.keyed import Purpose
from fastdeit.losses import (
    hard_distillation_loss,
    mixed_binary_cross_entropy,
    mixed_cross_entropy,
)
from fastdeit.models import forward_train, make_model, num_parameters, set_distilled_training
from fastdeit.optim import learning_rate, make_optimizer
from fastdeit.resume import cut_metrics, load_run, restore, run_state

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run leaves."""

    evaluation: Evaluation
    """Of the last epoch."""
    ema_evaluation: Evaluation | None
    """The same of the averaged weights; None without them."""
    checkpoint: Path
    """The last checkpoint."""


@dataclass(frozen=True, slots=True)
class Session:
    """What computes in a run, made and checked before anything is written."""

    compute: Compute
    model: nn.Module
    optimizer: torch.optim.Optimizer
    teacher: nn.Module | None
    ema: ModelEma | None
    first_epoch: int = 0
    """Where the run goes on; 0 if it begins."""
    first_step: int = 0
    """The same in steps over the whole run."""


def make_session(config: TrainConfig, class_names: tuple[str, ...]) -> Session:
    """Choose the device, build the model, load the teacher; restore a run that goes on.

    Args:
        config: everything that decides the run.
        class_names: one for each output of the model.

    Raises:
        UserError: the device, the model or the teacher cannot be had, or the run cannot go on.
    """
    content = load_run(config, config.run.out / CHECKPOINT)
    compute = choose_compute(config.run.device, config.run.precision)
    model = make_model(config.model, len(class_names), config.data.image_size, config.run.seed)
    model = compute.place(model).train()
    set_distilled_training(model)
    optimizer = make_optimizer(model, config.optim, config.data.batch_size)
    ema = ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay > 0 else None
    teacher = load_teacher(config, class_names, compute)
    position = (0, 0) if content is None else restore(content, model, optimizer, ema)
    return Session(compute, model, optimizer, teacher, ema, *position)


def train(
    config: TrainConfig,
    session: Session,
    train_batches: BatchSource,
    val_batches: BatchSource,
    class_names: tuple[str, ...],
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train a model.

    Args:
        config: everything that decides the run.
        session: from `make_session`.
        train_batches: one pass is one epoch.
        val_batches: one pass is the whole validation set.
        class_names: one for each output of the model.
        on_step: called with each row of the metrics file, as it is written.

    Returns:
        The last evaluation and the path of the checkpoint.

    Raises:
        FloatingPointError: the loss stopped being finite; the last checkpoint is left as it was.
    """
    # ---- what computes -------------------------------------------------------------------------
    compute, model, optimizer = session.compute, session.model, session.optimizer
    teacher, ema = session.teacher, session.ema
    steps_per_epoch = len(train_batches)
    forward: nn.Module = (
        torch.compile(model) if config.run.compile not in ("auto", "off") else model
    )  # type: ignore[assignment]

    # ---- where it begins -----------------------------------------------------------------------
    step, elapsed_s = session.first_step, 0.0
    if session.first_epoch > 0:
        train_batches.load_state_dict({"epoch": session.first_epoch, "step": 0})
        elapsed_s = cut_metrics(config.run.out / METRICS, step)

    # ---- what is written -----------------------------------------------------------------------
    started = time.perf_counter() - elapsed_s
    metrics = (config.run.out / METRICS).open("a" if session.first_epoch else "w", encoding="utf-8")

    def record(**row: Any) -> None:
        row["elapsed_s"] = round(time.perf_counter() - started, 3)
        metrics.write(json.dumps(row) + "\n")
        metrics.flush()
        if on_step is not None:
            on_step(row)

    # ---- epochs --------------------------------------------------------------------------------
    with metrics:
        for epoch in range(session.first_epoch, config.optim.epochs):
            losses: list[Tensor] = []
            num_images, wait_s, since = 0, 0.0, time.perf_counter()
            batches = iter(train_batches)
            while True:
                asked = time.perf_counter()
                host_batch = next(batches, None)
                wait_s += time.perf_counter() - asked
                if host_batch is None:
                    break
                lr = learning_rate(config.optim, config.data.batch_size, step, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                batch = host_batch.to(compute.device)
                losses.append(train_step(config, forward, teacher, optimizer, batch, compute))
                if ema is not None:
                    ema.update()
                step += 1
                num_images += len(batch.labels)
                if step % config.run.log_every_steps == 0 or step % steps_per_epoch == 0:
                    # The only place in an epoch that waits for the device.
                    loss = torch.stack(losses).mean().item()
                    now = time.perf_counter()
                    if not math.isfinite(loss):
                        raise FloatingPointError(
                            f"loss must be finite. Found: {loss} at step {step - len(losses)} to "
                            f"{step}, learning rate {lr:.3g}. Lower --base-lr or raise "
                            "--warmup-epochs; the last checkpoint is as it was."
                        )
                    record(
                        kind="train",
                        epoch=epoch,
                        step=step,
                        loss=loss,
                        lr=lr,
                        img_per_s=num_images / (now - since),
                        data_wait_frac=wait_s / (now - since),
                    )
                    losses, num_images, wait_s, since = [], 0, 0.0, now
            evaluation = evaluate(model, val_batches, compute)
            record(kind="eval", epoch=epoch, step=step, **evaluation.to_dict())
            ema_evaluation = None
            if ema is not None:
                ema_evaluation = evaluate(ema.module, val_batches, compute)
                record(kind="eval_ema", epoch=epoch, step=step, **ema_evaluation.to_dict())
            save_checkpoint(
                config.run.out / CHECKPOINT,
                model,
                config.model,
                config.data.image_size,
                class_names,
                config=config.to_dict(),
                num_params=num_parameters(model),
                **run_state(optimizer, ema, epoch + 1, step),
            )
    return TrainResult(evaluation, ema_evaluation, config.run.out / CHECKPOINT)


def train_step(
    config: TrainConfig,
    model: nn.Module,
    teacher: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    compute: Compute,
) -> Tensor:
    """Augment one batch, take one optimiser step.

    Args:
        config: augmentation and loss.
        model: in training mode, on the device; may be compiled.
        teacher: in evaluation mode, on the device, or None.
        optimizer: over the model's parameters, its learning rate set.
        batch: on the device.
        compute: device and precision.

    Returns:
        () float32 on the device, the detached loss; reading it is the caller's wait.
    """
    # DropPath is the only draw left to torch's generator; keyed by the step, it needs no saving.
    torch.manual_seed(keyed.step_seed(config.run.seed, Purpose.DROP_PATH, batch.epoch, batch.step))
    augmentation = sample_augmentation(config.augment, batch, config.run.seed)
    images, targets = apply_augmentation(batch, augmentation)
    with compute.autocast():
        logits, dist_logits = forward_train(model, images)
        if config.optim.loss == "bce":
            loss = mixed_binary_cross_entropy(logits, targets)
        else:
            loss = mixed_cross_entropy(logits, targets, config.augment.smoothing)
        if teacher is not None and dist_logits is not None:
            with torch.no_grad():
                teacher_logits = teacher(images)
            loss = hard_distillation_loss(loss, dist_logits, teacher_logits)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.optim.clip_grad > 0:
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_grad)
    optimizer.step()
    return loss.detach()


def load_teacher(
    config: TrainConfig, class_names: tuple[str, ...], compute: Compute
) -> nn.Module | None:
    """Load the teacher of a distilled run, frozen, on the device.

    Raises:
        UserError: it knows other classes than the data has.
    """
    if config.distill.teacher is None:
        return None
    content = load_checkpoint(config.distill.teacher)
    if tuple(content["class_names"]) != class_names:
        raise UserError(
            f"teacher must know the classes of the training set ({len(class_names)}). Found: "
            f"{config.distill.teacher} with {len(content['class_names'])} others. "
            "Train the teacher on the same data."
        )
    if content["image_size"] != config.data.image_size:
        raise UserError(
            f"teacher must see images of the student's size ({config.data.image_size}). Found: "
            f"{config.distill.teacher} for {content['image_size']}. "
            f"Pass --image-size {content['image_size']}, or train the teacher anew."
        )
    teacher = model_from_checkpoint(content).requires_grad_(False)
    return compute.place(teacher)
