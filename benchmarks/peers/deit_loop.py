"""The training step of the published DeiT code, which ours is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEma
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.config import AugmentConfig, TrainConfig
from fastdeit.machine.device import Compute
from fastdeit.models import make_model, set_distilled_training

BASELINE = "the published DeiT loop"


def published_compute(compute: Compute) -> Compute:
    """The precision that the published code takes: fp16 autocast on a GPU, fp32 elsewhere."""
    is_gpu = compute.device.type == "cuda"
    return replace(compute, autocast_dtype=torch.float16 if is_gpu else None, uses_tf32=False)


def published_note(config: TrainConfig, compute: Compute) -> str:
    """What the published loop does here, for who reads its rate."""
    does = [
        "timm's Mixup" if _is_mixed(config.augment) else "no Mixup, as the recipe",
        {"adamw": "AdamW, not fused", "sgd": "SGD, not fused", "lamb": "timm's Lamb"}[
            config.optim.optimizer
        ],
        *(["timm's ModelEma"] if config.optim.ema_decay > 0 else []),
        "the loss read in every step",
        "fp16 autocast, GradScaler, the GPU waited for in every step, cuDNN's benchmark"
        if compute.device.type == "cuda"
        else "fp32",
        "contiguous, not compiled",
        "attention of today's timm",
        "images normalised before; policy and erasing are left to its workers",
    ]
    return "; ".join(does)


def published_loop(
    config: TrainConfig, teacher: nn.Module | None, device: torch.device, num_classes: int
) -> Callable[[Iterable[tuple[Tensor, Tensor]]], int]:
    """Train in the way of the published code.

    Args:
        config: the recipe.
        teacher: on the CPU, in evaluation mode, or None.
        device: where to train.
        num_classes: outputs of the model.

    Returns:
        A function that takes steps: of (B, 3, H, W) float32 images, normalised, contiguous, which
        it may change, and (B,) int64 labels, on any device. It gives the number of images, when
        the device is done.

    Raises:
        UserError: it cannot take the recipe.

    Source: deit engine.py:train_one_epoch, main.py and losses.py:DistillationLoss. The model and
        the teacher stay as timm makes them. Differs: today's timm and torch, whose attention is
        fused.
    """
    batch_size = config.data.batch_size
    if _is_mixed(config.augment) and batch_size % 2:
        raise UserError(
            f"batch_size must be even, for timm's Mixup takes pairs. Found: {batch_size}. "
            f"Pass --batch-size {batch_size + 1}."
        )
    is_gpu = device.type == "cuda"
    optim = config.optim
    model = make_model(config.model, num_classes, config.data.image_size, config.run.seed)
    model = model.to(device).train()
    set_distilled_training(model)
    if teacher is not None:
        teacher = teacher.to(device)
    epsilon: dict[str, Any] = {} if optim.optimizer == "sgd" else {"eps": 1e-8}
    optimizer = create_optimizer_v2(
        model,
        opt=optim.optimizer,
        lr=optim.warmup_lr,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        **epsilon,
    )
    average = ModelEma(model, decay=optim.ema_decay) if optim.ema_decay > 0 else None
    scaler = torch.amp.GradScaler(device.type, enabled=is_gpu)
    mixup = make_mixup(config.augment, num_classes)
    criterion = make_criterion(config)

    def step(images: Tensor, labels: Tensor) -> None:
        shown = images.to(device, non_blocking=True)
        targets = labels.to(device, non_blocking=True)
        if mixup is not None:
            shown, targets = mixup(shown, targets)
        if optim.loss == "bce":
            targets = targets.gt(0.0).type(targets.dtype)
        with torch.autocast(device.type, dtype=torch.float16, enabled=is_gpu):
            output: Any = model(shown)
            if teacher is None:
                loss = criterion(output, targets)
            else:
                logits, dist_logits = output
                loss = criterion(logits, targets)
                with torch.no_grad():
                    taught = teacher(shown)
                loss = 0.5 * loss + 0.5 * F.cross_entropy(dist_logits, taught.argmax(1))
        loss.item()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if optim.clip_grad > 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad)
        scaler.step(optimizer)
        scaler.update()
        if is_gpu:
            torch.cuda.synchronize()
        if average is not None:
            average.update(model)

    def take(batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        # main.py switches it on; here it holds for these rounds only.
        was, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        num_images = 0
        try:
            for images, labels in batches:
                step(images, labels)
                num_images += len(labels)
        finally:
            torch.backends.cudnn.benchmark = was
        if is_gpu:
            torch.cuda.synchronize()
        return num_images

    return take


def _is_mixed(config: AugmentConfig) -> bool:
    """Whether the published code makes a Mixup for the recipe."""
    return config.use_mixup or config.use_cutmix


def make_mixup(config: AugmentConfig, num_classes: int) -> Mixup | None:
    """Mixup of timm with the recipe's numbers, or None; source: deit main.py, `mixup_active`."""
    if not _is_mixed(config):
        return None
    return Mixup(
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        cutmix_minmax=config.cutmix_minmax,
        prob=config.mix_prob,
        switch_prob=config.switch_prob,
        mode=config.mix_mode,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
    )


def make_criterion(config: TrainConfig) -> nn.Module:
    """The loss of the class head, as the published code chooses it; source: deit main.py."""
    criterion: nn.Module
    if config.optim.loss == "bce":
        if not _is_mixed(config.augment):
            raise UserError(
                "the published code takes binary cross-entropy of mixed labels only. Found: a "
                "recipe that does not mix. Take another --recipe."
            )
        criterion = nn.BCEWithLogitsLoss()
    elif _is_mixed(config.augment):
        criterion = SoftTargetCrossEntropy()
    elif config.augment.smoothing > 0:
        criterion = LabelSmoothingCrossEntropy(smoothing=config.augment.smoothing)
    else:
        criterion = nn.CrossEntropyLoss()
    return criterion
