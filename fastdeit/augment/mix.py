"""Mixup and CutMix in timm's `batch` mode: one decision a step, the partner is `batch.flip(0)`.

Source: Mixup, arXiv:1710.09412; CutMix, arXiv:1905.04899 section 3.1; timm
data/mixup.py:Mixup._params_per_batch, _mix_batch, rand_bbox, cutmix_bbox_and_lam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mix:
    """How every image of a batch is mixed with its partner."""

    weight: float
    """Share of the image itself, from 0 to 1; for CutMix that of the pasted box's complement."""
    box: tuple[int, int, int, int] | None
    """CutMix: (top, bottom, left, right) of the pasted box; None for Mixup."""


def sample_mix(
    generator: np.random.Generator,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_prob: float,
    height: int,
    width: int,
) -> Mix | None:
    """Draw the decision of one step.

    Args:
        generator: keyed by seed, epoch and step.
        mixup_alpha: Beta parameter of Mixup, 0 switches it off.
        cutmix_alpha: Beta parameter of CutMix, 0 switches it off.
        switch_prob: probability of CutMix where both are on.
        height: rows of an image.
        width: columns of an image.

    Returns:
        The decision, or None if both are off.
    """
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return None
    if mixup_alpha > 0 and cutmix_alpha > 0:
        use_cutmix = generator.random() < switch_prob
    else:
        use_cutmix = cutmix_alpha > 0
    alpha = cutmix_alpha if use_cutmix else mixup_alpha
    weight = float(generator.beta(alpha, alpha))
    if not use_cutmix:
        return Mix(weight, None)
    center_y, center_x = int(generator.integers(height)), int(generator.integers(width))
    return cutmix_from_draws(weight, center_y, center_x, height, width)


def cutmix_from_draws(weight: float, center_y: int, center_x: int, height: int, width: int) -> Mix:
    """The box of CutMix and its true weight.

    Args:
        weight: the drawn lambda.
        center_y: row of the box's centre.
        center_x: column of the box's centre.
        height: rows of an image.
        width: columns of an image.

    Returns:
        A box with sides of sqrt(1 - lambda), clipped to the image, and the share that it leaves.

    Note: the timm of the paper's code cut odd sides one pixel short; timm 1.0.31 no longer does.
    """
    side = math.sqrt(1 - weight)
    box_h, box_w = int(height * side), int(width * side)
    top, bottom = max(0, center_y - box_h // 2), min(height, center_y + (box_h + 1) // 2)
    left, right = max(0, center_x - box_w // 2), min(width, center_x + (box_w + 1) // 2)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def apply_mix(images: Tensor, mix: Mix) -> tuple[Tensor, float]:
    """Mix each image with that at the mirrored place of the batch.

    Args:
        images: (B, 3, H, W) float; B may be odd, the middle image then meets itself.
        mix: the decision.

    Returns:
        (mixed images of the same shape, share of each image's own label).
    """
    if mix.box is None:
        return images * mix.weight + images.flip(0) * (1 - mix.weight), mix.weight
    top, bottom, left, right = mix.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, mix.weight
