"""The whole augmentation of one batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import keyed
from fastdeit.augment.decisions import (
    Operations,
    sample_jitter,
    sample_operations,
)
from fastdeit.augment.erase import Erasure, erased_pixels, sample_erasure
from fastdeit.augment.mix import (
    Mix,
    MixedTargets,
    mix_,
    mix_targets,
    sample_mix,
)
from fastdeit.augment.operate import Implementation, check_images, operate_
from fastdeit.augment.upload import upload
from fastdeit.batch import Batch
from fastdeit.config.augment import AugmentConfig, AugmentOrder
from fastdeit.keyed import Purpose
from fastdeit.policies import parse_policy

# ImageNet's, as timm's IMAGENET_DEFAULT_MEAN and _STD.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

BLOCK_BYTES_CPU = 1 << 20
"""Bytes of uint8 images that are normalised, erased and mixed at a time: a cache's worth."""
BLOCK_PART_GPU = 8
"""On a GPU a block is so many-th of the batch: kernels large enough, and memory as promised."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The decisions for one batch."""

    flip: NDArray[np.bool_]
    """(B,) whether the image is mirrored left to right."""
    operations: tuple[Operations, ...]
    """The policy's operations and the colour jitter, in their order."""
    erasure: Erasure | None
    mix: Mix | None
    order: AugmentOrder = "deit"
    """Whether erasing or mixing comes first."""


def sample_augmentation(
    config: AugmentConfig, batch: Batch, seed: int, mix_word: int = 0
) -> Augmentation:
    """Draw the decisions for a batch.

    Args:
        config: which augmentations, with their probabilities.
        batch: only its keys, copies, epoch, step and image size are read.
        seed: the run's seed.
        mix_word: another number for each process lets each draw its own Mixup or CutMix of a batch,
            as the published code does; with 0 all draw the same.

    Returns:
        Decisions that depend on each sample's key, copy and epoch, and for mixing on the step.
    """
    height, width = batch.images_nhwc_u8.shape[1:3]

    def states(purpose: Purpose) -> keyed.U64:
        return keyed.sample_states(seed, purpose, batch.epoch, batch.sample_keys, batch.copies)

    operations = []
    policy = parse_policy(config.auto_augment)
    if policy is not None:
        operations.append(
            sample_operations(
                policy, states(Purpose.POLICY), height, width, config.augment_interpolation
            )
        )
    if any(config.jitter):
        operations.append(sample_jitter(config.jitter, states(Purpose.JITTER)))
    erasure = None
    if config.erase_prob > 0:
        erasure = sample_erasure(
            states(Purpose.ERASE),
            config.erase_prob,
            height,
            width,
            config.erase_mode,
            config.erase_count,
            config.erase_splits,
        )
    # One decision for a batch is one for all processes; those for each image are not.
    first = mix_word if config.mix_mode == "batch" else int(batch.sample_keys[:1].sum())
    return Augmentation(
        flip=keyed.uniform(states(Purpose.FLIP), 0) < config.hflip_prob,
        operations=tuple(operations),
        erasure=erasure,
        mix=sample_mix(
            config,
            keyed.step_generator(seed, Purpose.MIX, batch.epoch, batch.step, first),
            len(batch.sample_keys),
            height,
            width,
        ),
        order=config.augment_order,
    )


def apply_augmentation(
    batch: Batch,
    augmentation: Augmentation,
    dtype: torch.dtype = torch.float32,
    implementation: Implementation = "auto",
) -> tuple[Tensor, MixedTargets]:
    """Augment a batch on the device where it is.

    Args:
        batch: images (B, H, W, 3) uint8; not changed.
        augmentation: from `sample_augmentation` for the same batch.
        dtype: of the result; it is computed in float32 and rounded once.
        implementation: of the policy's operations, as in `apply_operations`.

    Returns:
        (images (B, 3, H, W) of `dtype`, channels-last in memory, normalised; targets).

    Raises:
        ValueError: the images are not (B, H, W, 3) uint8, the decisions are for another number of
            images, or the dtype is no floating one.

    Source: deit datasets.py:build_transform and engine.py: erasing happens before mixing. timm
    data/loader.py:PrefetchLoader with FastCollateMixup for the order `timm-prefetcher`: uint8
    images are mixed and rounded, then normalised and erased.

    Note: nothing waits for the device. Beyond the batch and the result it takes at most 3 times the
    bytes of the batch.
    """
    check_images(batch.images_nhwc_u8)
    if len(augmentation.flip) != len(batch.images_nhwc_u8) or not dtype.is_floating_point:
        raise ValueError(
            f"decisions must be for {len(batch.images_nhwc_u8)} images and the dtype floating. "
            f"Found: {len(augmentation.flip)} and {dtype}. Draw them for this batch."
        )
    images = _mirrored(batch.images_nhwc_u8, augmentation.flip)
    for operations in augmentation.operations:
        operate_(images, operations, implementation)
    blocks = list(_blocks(images))
    order = np.concatenate([np.r_[front, back] for front, back in blocks] or [np.arange(0)])
    erased = []
    if augmentation.erasure is not None:
        _, height, width, _ = images.shape
        erased = erased_pixels(augmentation.erasure.take(order), height, width, images.device)
    out = torch.empty(images.shape, dtype=dtype, device=images.device)
    start = 0
    for front, back in blocks:
        num_front, num = front.stop - front.start, 2 * (front.stop - front.start)
        part = torch.cat((images[front], images[back]))
        mix = augmentation.mix
        if mix is not None:
            mix = mix.take(order[start : start + num])
        if augmentation.order == "timm-prefetcher" and mix is not None:
            # uint8 images are mixed and rounded.
            done = _normalise_nhwc(mix_(part.float(), mix).round_())
        else:
            done = _normalise_nhwc(part)
        for pixels in erased:
            pixels.write(done, start, start + num)
        if augmentation.order == "deit" and mix is not None:
            done = mix_(done, mix)
        out[front], out[back] = done[:num_front], done[num_front:]
        start += num
        del part, done  # or two blocks would be alive at a time
    return out.permute(0, 3, 1, 2), mix_targets(batch.labels, augmentation.mix)


def _mirrored(images: Tensor, flip: NDArray[np.bool_]) -> Tensor:
    """A contiguous copy in which the chosen images are mirrored left to right."""
    out = images.clone(memory_format=torch.contiguous_format)
    chosen = np.flatnonzero(flip)
    if len(chosen):
        (index,) = upload([chosen], images.device)
        out.index_copy_(0, index, images.index_select(0, index).flip(2))
    return out


def _blocks(images: Tensor) -> Iterator[tuple[slice, slice]]:
    """Parts of a batch with the mirrored parts, where the partners are."""
    num = len(images)
    size = block_size(num, images.shape[1:].numel(), images.device.type)
    half = (num + 1) // 2
    # Joined, a part and its mirrored part are a small batch whose partners are at mirrored places
    # too. The middle image of an odd batch comes twice, and meets itself.
    for start in range(0, half, size):
        stop = min(start + size, half)
        yield slice(start, stop), slice(num - stop, num - start)


def block_size(num: int, image_bytes: int, device_type: str) -> int:
    """How many images of a batch of `num` are finished at a time with as many partners."""
    if device_type == "cpu":
        return max(1, BLOCK_BYTES_CPU // (2 * image_bytes))
    return max(1, num // (2 * BLOCK_PART_GPU))


def normalise(images_nhwc: Tensor) -> Tensor:
    """Scale to [0, 1], then subtract ImageNet's mean and divide by its standard deviation.

    (B, H, W, 3) from 0 to 255, uint8 or float, to (B, 3, H, W) float32 whose memory is
    channels-last. Source: torchvision ToTensor and Normalize.
    """
    return _normalise_nhwc(images_nhwc).permute(0, 3, 1, 2)


def _normalise_nhwc(images: Tensor) -> Tensor:
    num, height, width, channels = images.shape
    mean, std = _statistics_of_a_row(width, images.device)
    # Rows of 3 W numbers: broadcasting over a last axis of 3 is 5 times slower on a CPU.
    rows = (images / 255.0).view(num, height, width * channels)
    return rows.sub_(mean).div_(std).view(images.shape)


@functools.lru_cache(64)
def _statistics_of_a_row(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = channel_statistics(device)
    return mean.repeat(width), std.repeat(width)


@functools.cache
def channel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation, (3,) float32 each.

    Kept, since making a tensor out of numbers waits for a GPU.
    """
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
