"""The training loop, top to bottom: `fastdeit train` -> `train` -> `train_step`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastdeit import keyed
from fastdeit.augment import AugmentedBatch, augmented
from fastdeit.batch import Batch, BatchSource
from fastdeit.checkpoints.file import checkpoint_content
from fastdeit.checkpoints.store import CheckpointStore
from fastdeit.config import TrainConfig
from fastdeit.errors import Stopped
from fastdeit.keyed import Purpose
from fastdeit.machine.device import choose_compile_mode
from fastdeit.machine.distributed import Votes, say
from fastdeit.machine.stopping import stop_requests
from fastdeit.machine.torch_compile import RecompileWatch
from fastdeit.measured.phases import phase
from fastdeit.measured.trace import TRACE, traced_steps
from fastdeit.models import forward_train, num_parameters
from fastdeit.models.flops import peak_flops, train_flops
from fastdeit.training.evaluate import evaluate_all
from fastdeit.training.forecast import Forecast
from fastdeit.training.losses import (
    distilled_loss,
    image_weights,
    mixed_binary_cross_entropy,
    mixed_cross_entropy,
)
from fastdeit.training.optim import learning_rate
from fastdeit.training.resume import Position, cut_metrics, run_state
from fastdeit.training.session import Session
from fastdeit.training.teacher import answer, answered
from fastdeit.training.telemetry import METRICS, Metrics


def train(
    config: TrainConfig,
    session: Session,
    train_batches: BatchSource,
    val_batches: BatchSource,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train a model; what it leaves is in the folder of the run.

    Args:
        config: everything that decides the run.
        session: from `make_session`.
        train_batches: one pass is one epoch of this process.
        val_batches: one pass is this process's part of the whole validation set.
        on_row: called with each row of the metrics, as it is written.

    Raises:
        FloatingPointError: loss or weights stopped being finite; what was saved is as it was.
        Stopped: SIGINT, SIGTERM or SIGUSR1 reached any process; where the run was is saved.
        RunError: another process is lost.
    """
    # ---- what computes -------------------------------------------------------------------------
    compute, world, model, ema = session.compute, session.world, session.model, session.ema
    optim, run, batch_size = config.optim, config.run, config.data.batch_size
    steps_per_epoch = len(train_batches)
    position = session.position
    step, window, best_top1_pct = position.step, list(position.window), position.best_top1_pct
    mix_word = world.rank if run.compat == "upstream" else 0

    # ---- what is written, by the first process -------------------------------------------------
    elapsed_s = cut_metrics(run.out / METRICS, position) if world.is_main else 0.0
    started = time.perf_counter() - elapsed_s
    forecast = Forecast(
        optim.epochs * steps_per_epoch, steps_per_epoch, step, elapsed_s, run.budget_hours * 3600
    )
    # Not of a CPU: its peak would be measured beside the loader's threads.
    peak = peak_flops(compute).flops_per_s * world.size if compute.device.type == "cuda" else None
    img_flops = train_flops(model, session.teacher, config.data.image_size)
    trace = run.out / TRACE if run.profile_steps and world.is_main else None
    watch = RecompileWatch(choose_compile_mode(run.compile, compute) is not None)

    def record(**row: Any) -> None:
        row["elapsed_s"] = round(time.perf_counter() - started, 3)
        if row["kind"] == "train":
            forecast.update(step, row["elapsed_s"])
            row |= forecast.to_row()
        if metrics is not None:
            metrics.write(row)
            if on_row is not None:
                on_row(row)

    def save(position: Position, is_best: bool = False) -> None:
        _require_finite(session, position.step)
        if world.is_main:
            content = checkpoint_content(
                model,
                config.model,
                config.data.image_size,
                session.classes,
                config=config.to_dict(),
                num_params=num_parameters(model),
                teacher_model=session.teacher_model,
                **run_state(position, session.optimizer, session.scaler, ema),
            )
            store.save(content, position.step, is_best)

    def stop(position: Position) -> NoReturn:
        save(position)
        store.wait()
        raise Stopped(asked.signal_number, f"epoch {position.epoch + 1}, step {position.step}")

    # ---- epochs --------------------------------------------------------------------------------
    with (
        Metrics(run.out, run, config.to_dict(), step)
        if world.is_main
        else contextlib.nullcontext() as metrics,
        CheckpointStore(run.out, run.keep_checkpoints) as store,
        stop_requests() as asked,
        traced_steps(trace, run.profile_steps, compute) as after_step,
        world.explain_loss(),
    ):
        votes = Votes(world, asked)
        saved_at = time.perf_counter()
        for epoch in range(position.epoch, optim.epochs):
            first = position.step_in_epoch if epoch == position.epoch else 0
            train_batches.load_state_dict({"epoch": epoch, "step": first})
            losses: list[Tensor] = []
            num_steps, since = 0, time.perf_counter()
            loader = Timed(train_batches)
            shown = augmented(loader, config.augment, run.seed, compute, mix_word)
            for batch in shown if session.answers is None else answered(shown, session.answers):
                lr = learning_rate(optim, batch_size, step, steps_per_epoch, run.compat)
                losses.append(train_step(config, session, batch, lr))
                after_step()
                step += 1
                num_steps += 1
                in_epoch = batch.step + 1
                must_stop = votes.ask()
                is_row = step % run.log_every_steps == 0 or in_epoch == steps_per_epoch
                if not (is_row or must_stop):
                    continue
                # The only place in an epoch that waits for the device.
                now = time.perf_counter()
                is_due = 0 < run.save_minutes <= (now - saved_at) / 60
                *summed, num_due = world.sum_on_host(
                    torch.cat((torch.stack(losses).cpu(), torch.tensor([float(is_due)])))
                ).tolist()
                window += summed
                losses = []
                world.heard(step)
                loss = math.fsum(window) / len(window)
                if not math.isfinite(loss):
                    raise _not_finite("loss", loss, step - len(window), step, lr)
                if is_row:
                    now = time.perf_counter()
                    img_per_s = num_steps * batch_size / (now - since)
                    record(
                        kind="train",
                        epoch=epoch,
                        step=step,
                        loss=loss,
                        lr=lr,
                        img_per_s=img_per_s,
                        data_wait_frac=loader.seconds / (now - since),
                        mfu=None if peak is None else img_per_s * img_flops / peak,
                        gpu_memory_gib=compute.peak_memory_gib(),
                    )
                    window, num_steps, since, loader.seconds = [], 0, now, 0.0
                    store.check()
                    why = watch.warning()
                    if why is not None and world.is_main:
                        say(f"warning: {why}")
                here = Position(epoch, in_epoch, step, tuple(window), best_top1_pct)
                if must_stop:
                    stop(here)
                # At the end of an epoch the checkpoint comes after the evaluation.
                if num_due and in_epoch < steps_per_epoch:
                    save(here)
                    saved_at = time.perf_counter()

            watch.settle()

            # ---- evaluation ------------------------------------------------------------------
            _require_finite(session, step)
            models = {"eval": model} if ema is None else {"eval": model, "eval_ema": ema.module}
            for each in models.values():
                world.broadcast_buffers(each)
            try:
                val_shown = _until_stop(val_batches, votes)
                scores = evaluate_all([*models.values()], val_shown, compute, world=world)
            except AskedToStop:
                stop(Position(epoch, steps_per_epoch, step, (), best_top1_pct))
            for kind, score in zip(models, scores, strict=True):
                record(kind=kind, epoch=epoch, step=step, **score.to_dict())
            top1_pct = max(score.best_top1_pct for score in scores)
            is_best = top1_pct > best_top1_pct
            best_top1_pct = max(top1_pct, best_top1_pct)
            save(Position(epoch + 1, 0, step, (), best_top1_pct), is_best)
            saved_at = time.perf_counter()
        store.wait()
        world.barrier()


def train_step(config: TrainConfig, session: Session, batch: AugmentedBatch, lr: float) -> Tensor:
    """Take one optimiser step with this process's share of it, and move the averaged weights.

    () float32 on the device, this process's part of the mean loss over the whole step; reading it
    is the caller's wait.
    """
    world, optimizer, scaler = session.world, session.optimizer, session.scaler
    for group in optimizer.param_groups:
        group["lr"] = lr
    # DropPath and dropout are the only draws left to torch's generator; keyed by the step and the
    # process, they need no saving.
    torch.manual_seed(
        keyed.step_seed(config.run.seed, Purpose.DROP_PATH, batch.epoch, batch.step, world.rank)
    )
    optimizer.zero_grad(set_to_none=True)
    class_weights = step_weights(config, session, batch)
    total = torch.zeros((), device=batch.images.device)
    parts = list(batch.parts(config.optim.accumulate))
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        with contextlib.ExitStack() as stack:
            if world.size > 1 and not is_last:
                # Gradients are added up over the processes once, in the last part.
                stack.enter_context(session.forward.no_sync())  # type: ignore[operator]
            with session.compute.autocast(), phase("forward"):
                loss = loss_of(config, session, part, class_weights)
            # Shares of a step may differ by an image; each image counts alike.
            loss = loss * (len(part.images) / config.data.batch_size)
            # The processes' gradients are averaged, where they must be added.
            with phase("backward"):
                scaler.scale(loss * world.size).backward()
        total += loss.detach()
    with phase("optimizer"):
        if config.optim.clip_grad > 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(session.model.parameters(), config.optim.clip_grad)
        scaler.step(optimizer)
        scaler.update()
    if session.ema is not None:
        with phase("average"):
            session.ema.update()
    return total


def step_weights(config: TrainConfig, session: Session, batch: AugmentedBatch) -> Tensor | None:
    """The weights of the classes over their mean in a step, that is, in all of its processes.

    (K,) float32 on the device; None if all classes are alike.
    """
    if session.class_weights is None:
        return None
    total = session.world.sum_(image_weights(batch.targets, session.class_weights).sum())
    return session.class_weights * (config.data.batch_size / total)


def loss_of(
    config: TrainConfig,
    session: Session,
    batch: AugmentedBatch,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The loss of a batch or a part of one: () float32, the mean over its images.

    `class_weights` (K,) are those of the session over their mean in the whole step.
    """
    logits, dist_logits = forward_train(session.forward, batch.images)
    if config.optim.loss == "bce":
        loss = mixed_binary_cross_entropy(logits, batch.targets, class_weights)
    else:
        smoothing = config.augment.smoothing
        loss = mixed_cross_entropy(logits, batch.targets, smoothing, class_weights)
    said = batch.answer
    if said is None and session.teacher is not None:
        with torch.no_grad():
            said = answer(session.teacher(batch.images), config.distill)
    if said is not None:
        learner = logits if dist_logits is None else dist_logits
        loss = distilled_loss(loss, learner, said, config.distill, config.run.compat)
    return loss


def _require_finite(session: Session, step: int) -> None:
    """Make sure that weights are worth saving; waits for the device."""
    norms = torch.stack(torch._foreach_norm(list(session.model.parameters())))
    if not torch.isfinite(norms).all().item():
        lr = session.optimizer.param_groups[0]["lr"]
        raise _not_finite("weights", float("nan"), step - 1, step, lr)


def _not_finite(what: str, value: float, before: int, step: int, lr: float) -> FloatingPointError:
    return FloatingPointError(
        f"{what} must be finite. Found: {value} at step {before} to {step}, learning rate {lr:.3g}."
        " Lower --base-lr or raise --warmup-epochs; what was saved before is as it was."
    )


class AskedToStop(Exception):
    """Ends an evaluation."""


class Timed:
    """Batches, and how long their loader was waited for."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


def _until_stop(batches: Iterable[Batch], votes: Votes) -> Iterator[Batch]:
    for batch in batches:
        if votes.ask():
            raise AskedToStop
        yield batch
