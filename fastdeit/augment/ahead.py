"""The batches of an epoch, augmented; on a GPU one ahead of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdeit.augment.compose import apply_augmentation, sample_augmentation
from fastdeit.augment.mix import MixedTargets
from fastdeit.batch import Batch
from fastdeit.config import AugmentConfig
from fastdeit.machine.device import Compute
from fastdeit.machine.side_stream import one_ahead


@dataclass(frozen=True, slots=True)
class AugmentedBatch:
    """What the model is shown in one step of one process."""

    images: Tensor
    """(B, 3, H, W) float, channels-last in memory, normalised."""
    targets: MixedTargets
    epoch: int
    """From 0."""
    step: int
    """From 0 within the epoch."""
    answer: Tensor | None = None
    """What the teacher said of them, if it was asked before."""

    def parts(self, num: int) -> Iterator[AugmentedBatch]:
        """Cut the batch into at most `num` parts of nearly equal size, in order, none empty."""
        total = len(self.images)
        for part in range(num):
            own = slice(total * part // num, total * (part + 1) // num)
            if own.start < own.stop:
                targets = self.targets
                yield AugmentedBatch(
                    self.images[own],
                    MixedTargets(
                        targets.labels[own], targets.partner_labels[own], targets.weight[own]
                    ),
                    self.epoch,
                    self.step,
                    None if self.answer is None else self.answer[own],
                )


def augment(
    batch: Batch,
    config: AugmentConfig,
    seed: int,
    mix_word: int = 0,
    dtype: torch.dtype = torch.float32,
) -> AugmentedBatch:
    """Draw the decisions for a batch and apply them, on the device where it is.

    The batch is not changed. The images are computed in float32 and rounded to `dtype` once;
    `mix_word` as in `sample_augmentation`.
    """
    decisions = sample_augmentation(config, batch, seed, mix_word)
    images, targets = apply_augmentation(batch, decisions, dtype)
    return AugmentedBatch(images, targets, batch.epoch, batch.step)


def augmented(
    batches: Iterable[Batch],
    config: AugmentConfig,
    seed: int,
    compute: Compute,
    mix_word: int = 0,
) -> Iterator[AugmentedBatch]:
    """Augment the batches of an epoch; on a GPU the next one while the caller's step runs.

    The batches may be on any device; they come out where `compute` wants them, in autocast's
    precision: the first layer rounds to it anyway, so half the memory gives the same bits.
    `mix_word` as in `sample_augmentation`.
    """
    device, dtype = compute.device, compute.autocast_dtype or torch.float32

    def tensors(batch: AugmentedBatch) -> tuple[Tensor, ...]:
        targets = batch.targets
        return batch.images, targets.labels, targets.partner_labels, targets.weight

    made = (augment(batch.to(device), config, seed, mix_word, dtype) for batch in batches)
    yield from one_ahead(made, device, tensors)
