"""The whole augmentation of one batch."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import keyed
from fastdeit.augment.erase import Erasure, apply_erasure, sample_erasure
from fastdeit.augment.mix import Mix, apply_mix, sample_mix
from fastdeit.batch import Batch
from fastdeit.config import AugmentConfig
from fastdeit.keyed import Purpose

# ImageNet's, as timm's IMAGENET_DEFAULT_MEAN and _STD.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The decisions for one batch."""

    flip: NDArray[np.bool_]
    """(B,) whether the image is mirrored left to right."""
    erasure: Erasure
    """Which rectangles are replaced by noise."""
    mix: Mix | None
    """How images are mixed with their partners, or None."""


@dataclass(frozen=True, slots=True)
class MixedTargets:
    """Targets as two labels and a weight; no dense one-hot is built."""

    labels: Tensor
    """(B,) int64."""
    partner_labels: Tensor
    """(B,) int64, the label of the image that was mixed in."""
    weight: float
    """Share of `labels`, from 0 to 1; the partner's is 1 - weight."""


def sample_augmentation(config: AugmentConfig, batch: Batch, seed: int) -> Augmentation:
    """Draw the decisions for a batch.

    Args:
        config: which augmentations, with their probabilities.
        batch: only its keys, copies, epoch, step and image size are read.
        seed: the run's seed.

    Returns:
        Decisions that depend on each sample's key, copy and epoch, and for mixing on the step.
    """
    height, width = batch.images_nhwc_u8.shape[1:3]
    flip_states = keyed.sample_states(
        seed, Purpose.FLIP, batch.epoch, batch.sample_keys, batch.copies
    )
    erase_states = keyed.sample_states(
        seed, Purpose.ERASE, batch.epoch, batch.sample_keys, batch.copies
    )
    return Augmentation(
        flip=keyed.uniform(flip_states, 0) < config.hflip_prob,
        erasure=sample_erasure(erase_states, config.erase_prob, height, width),
        mix=sample_mix(
            keyed.step_generator(seed, Purpose.MIX, batch.epoch, batch.step),
            config.mixup_alpha,
            config.cutmix_alpha,
            config.switch_prob,
            height,
            width,
        ),
    )


def apply_augmentation(
    batch: Batch, augmentation: Augmentation, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, MixedTargets]:
    """Augment a batch on the device where it is.

    Args:
        batch: images (B, H, W, 3) uint8.
        augmentation: from `sample_augmentation` for the same batch.
        dtype: of the result.

    Returns:
        (images (B, 3, H, W) of `dtype`, channels-last in memory, normalised; targets).

    Source: deit datasets.py:build_transform and engine.py: erasing happens before mixing.
    """
    device = batch.images_nhwc_u8.device
    flip = torch.from_numpy(augmentation.flip).to(device, non_blocking=True)
    images_u8 = batch.images_nhwc_u8
    images_u8 = torch.where(flip[:, None, None, None], images_u8.flip(2), images_u8)
    images = normalise(images_u8)
    images = apply_erasure(images, augmentation.erasure)
    if augmentation.mix is None:
        return images.to(dtype), MixedTargets(batch.labels, batch.labels, 1.0)
    images, weight = apply_mix(images, augmentation.mix)
    return images.to(dtype), MixedTargets(batch.labels, batch.labels.flip(0), weight)


def normalise(images_nhwc_u8: Tensor) -> Tensor:
    """Scale to [0, 1], then subtract ImageNet's mean and divide by its standard deviation.

    Args:
        images_nhwc_u8: (B, H, W, 3) uint8.

    Returns:
        (B, 3, H, W) float32 whose memory is channels-last: a view of NHWC, no copy is made.

    Source: torchvision ToTensor and Normalize.
    """
    mean, std = channel_statistics(images_nhwc_u8.device)
    images = (images_nhwc_u8.float() / 255 - mean) / std
    return images.permute(0, 3, 1, 2)


@functools.cache
def channel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation, (3,) float32 each.

    Kept, since making a tensor out of numbers waits for a GPU.
    """
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
