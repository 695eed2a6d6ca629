"""The training step on data that already lies on the device, beside the published DeiT loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastdeit.augment import augment, augmented, normalise
from fastdeit.batch import Batch
from fastdeit.benchmarks.harness import Case, Row, measure, with_bound
from fastdeit.config import TrainConfig
from fastdeit.device import Compute
from fastdeit.flops import MATRIX_SIDE, matrix_flops
from fastdeit.models import make_model, set_distilled_training
from fastdeit.optim import make_optimizer
from fastdeit.pipelines.pipeline import PipelineOptions
from fastdeit.pipelines.plan import Plan
from fastdeit.pipelines.synthetic import SyntheticPipeline, synthetic_index
from fastdeit.recipes import demo_teacher
from fastdeit.session import assemble
from fastdeit.train import train_step

BASELINE = "the published DeiT loop"
STEPS = 8


def bench_step(
    config: TrainConfig,
    num_classes: int,
    compute: Compute,
    rounds: int,
    on_round: Callable[[], None],
) -> list[Row]:
    """Measure the step of one recipe.

    Args:
        config: the recipe; a distilled one is taught by a fresh `demo-teacher`.
        num_classes: outputs of the model.
        compute: device and precision.
        rounds: timed rounds of `STEPS` steps each.
        on_round: for a progress bar.

    Returns:
        Rows for the published loop, our step, and our augmentation alone. The bound of a step is
        the rate of a large matrix product over the step's floating-point operations.
    """
    size, batch_size = config.data.image_size, config.data.batch_size
    index = synthetic_index(batch_size * STEPS, num_classes)
    plan = Plan(keys=index.keys, batch_size=batch_size, image_size=size, is_training=True)
    pipeline = SyntheticPipeline(index, plan, PipelineOptions(device=compute.device))
    batches = [batch.to(compute.device) for batch in pipeline]
    teacher = None
    if config.distill.distillation != "none":
        teacher_config = demo_teacher(Path(), Path(), Path()).model
        teacher = make_model(teacher_config, num_classes, size).eval().requires_grad_(False)
        teacher = compute.place(teacher)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = make_model(config.model, num_classes, size, config.run.seed)
        model = compute.place(model).train()
        set_distilled_training(model)
        return model, make_optimizer(model, config.optim, batch_size)

    model = make_model(config.model, num_classes, size, config.run.seed)
    session = assemble(config, model, teacher, compute)
    lr = config.optim.lr(batch_size)

    def ours() -> int:
        for shown in augmented(batches, config.augment, config.run.seed, compute):
            train_step(config, session, shown, lr)
        compute.synchronize()
        return batch_size * STEPS

    def augmentation() -> int:
        for batch in batches:
            augment(batch, config.augment, config.run.seed)
        compute.synchronize()
        return batch_size * STEPS

    label = f"{config.model.model}, {size} px, batch {batch_size}"
    cases = [
        Case(name=BASELINE, run=published_loop(config, *fresh(), teacher, batches, num_classes)),
        Case(name="fastdeit step", run=ours),
        Case(name="fastdeit augmentation alone", run=augmentation, note="flip, policy, erase, mix"),
    ]
    rows = measure("step", "img/s", cases, rounds, [BASELINE], on_round)
    side = MATRIX_SIDE[compute.device.type]
    peak = matrix_flops(compute, side)
    shown = augment(batches[0], config.augment, config.run.seed)
    flops = step_flops(lambda: train_step(config, session, shown, lr))
    what = f"a {side}^3 matrix product, {peak / 1e9:.0f} GFLOP/s"
    bound = peak / (flops / batch_size)
    published, step, alone = rows
    return [
        replace(with_bound(published, bound, what), note=label),
        replace(with_bound(step, bound, what), note=label),
        replace(alone, baseline=None, ratio=None),
    ]


def published_loop(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    teacher: nn.Module | None,
    batches: list[Batch],
    num_classes: int,
) -> Callable[[], int]:
    """A round in the way of the published code, on normalised images that lie on the device.

    Source: deit engine.py:train_one_epoch and losses.py:DistillationLoss: timm's Mixup, dense soft
    targets, fp16 autocast on a GPU, the loss read and the device waited for in every step.
    """
    mixup = Mixup(
        mixup_alpha=config.augment.mixup_alpha,
        cutmix_alpha=config.augment.cutmix_alpha,
        label_smoothing=config.augment.smoothing,
        num_classes=num_classes,
    )
    criterion = SoftTargetCrossEntropy()
    inputs = [(normalise(batch.images_nhwc_u8).contiguous(), batch.labels) for batch in batches]
    device = inputs[0][0].device
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def run() -> int:
        count = 0
        for images, labels in inputs:
            mixed, targets = mixup(images.clone(), labels)
            with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
                output: Any = model(mixed)
                if teacher is None:
                    loss = criterion(output, targets)
                else:
                    logits, dist_logits = output
                    with torch.no_grad():
                        taught = teacher(mixed)
                    loss = 0.5 * criterion(logits, targets)
                    loss = loss + 0.5 * F.cross_entropy(dist_logits, taught.argmax(1))
            loss.item()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += len(labels)
        return count

    return run


def step_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of one step, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
