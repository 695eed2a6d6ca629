"""Mixup and CutMix in timm's three modes; an image's partner is that at the mirrored place.

Source: Mixup, arXiv:1710.09412; CutMix, arXiv:1905.04899 section 3.1; timm data/mixup.py:Mixup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.augment.upload import upload
from fastdeit.config.augment import AugmentConfig
from fastdeit.errors import UserError

Box = tuple[int, int, int, int]
"""(top, bottom, left, right), the ends not included."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How each image of a batch is mixed with its partner."""

    weight: NDArray[np.float64]
    """(B,) share of the image itself, from 0 to 1; of CutMix what its box leaves."""
    is_cutmix: NDArray[np.bool_]
    """(B,) whether the partner's box is pasted, rather than all of it blended."""
    box: NDArray[np.int64]
    """(B, 4) top, bottom, left, right of the pasted box."""

    def take(self, index: NDArray[np.int64]) -> Mix:
        """What was decided for some of the images."""
        return Mix(self.weight[index], self.is_cutmix[index], self.box[index])


@dataclass(frozen=True, slots=True)
class MixedTargets:
    """Targets as two labels and a weight; no dense one-hot is built."""

    labels: Tensor
    """(B,) int64."""
    partner_labels: Tensor
    """(B,) int64, the label of the image that was mixed in."""
    weight: Tensor
    """(B,) float32 share of `labels`, from 0 to 1; the partner's is 1 - weight."""


def sample_mix(
    config: AugmentConfig, generator: np.random.Generator, num: int, height: int, width: int
) -> Mix | None:
    """Draw the decisions of one step, or None if nothing is mixed.

    The generator is keyed by the step, and asked in the order in which timm asks numpy. Raises
    UserError if `cutmix_minmax` leaves no side to choose for so small an image.
    """
    if not (config.use_mixup or config.use_cutmix):
        return None
    if config.mix_mode == "batch":
        if generator.random() >= config.mix_prob:
            return None
        use_cutmix = config.use_cutmix
        if config.use_mixup and config.use_cutmix:
            use_cutmix = bool(generator.random() < config.switch_prob)
        alpha = _cutmix_alpha(config) if use_cutmix else config.mixup_alpha
        weight = float(generator.beta(alpha, alpha))
        box: Box = (0, 0, 0, 0)
        if use_cutmix and weight < 1:
            box, weight = _sample_box(config, generator, weight, height, width)
        return same_for_all(num, weight, box if use_cutmix else None)
    drawn = num if config.mix_mode == "elem" else num // 2
    weights, cuts = _sample_weights(config, generator, drawn)
    mix = Mix(np.ones(num), np.zeros(num, dtype=bool), np.zeros((num, 4), dtype=np.int64))
    for i in range(drawn):
        # timm goes on in float32 here, and the sides of the boxes with it.
        weight, box = weights[i], (0, 0, 0, 0)
        if cuts[i] and weight != 1:
            box, weight = _sample_box(config, generator, weight, height, width)
        for place in (i,) if config.mix_mode == "elem" else (i, num - 1 - i):
            mix.weight[place] = np.float32(weight)
            mix.is_cutmix[place], mix.box[place] = cuts[i], box
    return mix


def same_for_all(num: int, weight: float, box: Box | None) -> Mix:
    """One decision for a whole batch of `num`: CutMix with a box, Mixup without."""
    boxes = np.tile(np.array(box or (0, 0, 0, 0), dtype=np.int64), (num, 1))
    return Mix(np.full(num, weight), np.full(num, box is not None), boxes)


def _cutmix_alpha(config: AugmentConfig) -> float:
    return 1.0 if config.cutmix_minmax is not None else config.cutmix_alpha


def _sample_weights(
    config: AugmentConfig, generator: np.random.Generator, num: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(num,) lambda, 1 where nothing is mixed, and whether it is CutMix's."""
    cuts = np.full(num, config.use_cutmix)
    if config.use_mixup and config.use_cutmix:
        cuts = generator.random(num) < config.switch_prob
        alpha = _cutmix_alpha(config)
        cut_weights = generator.beta(alpha, alpha, size=num)
        weights = generator.beta(config.mixup_alpha, config.mixup_alpha, size=num)
        weights = np.where(cuts, cut_weights, weights)
    else:
        alpha = _cutmix_alpha(config) if config.use_cutmix else config.mixup_alpha
        weights = generator.beta(alpha, alpha, size=num)
    mixed = generator.random(num) < config.mix_prob
    return np.where(mixed, weights.astype(np.float32), np.float32(1)), cuts


def _sample_box(
    config: AugmentConfig, generator: np.random.Generator, weight: Any, height: int, width: int
) -> tuple[Box, float]:
    """CutMix's box and what it leaves. Source: timm mixup.py:rand_bbox, rand_bbox_minmax."""
    if config.cutmix_minmax is None:
        center_y, center_x = int(generator.integers(0, height)), int(generator.integers(0, width))
        box = box_around(weight, center_y, center_x, height, width)
    else:
        low, high = config.cutmix_minmax
        ends = [(int(size * low), int(size * high)) for size in (height, width)]
        if any(least >= greatest for least, greatest in ends):
            raise UserError(
                f"cutmix_minmax must leave a side to choose at {width} x {height} pixels. Found: "
                f"{low:g} {high:g}. Pass --cutmix-minmax 0.2 0.8, say."
            )
        rows, cols = (int(generator.integers(*end)) for end in ends)
        top = int(generator.integers(0, height - rows + 1))
        left = int(generator.integers(0, width - cols + 1))
        box = (top, top + rows, left, left + cols)
    top, bottom, left, right = box
    return box, 1.0 - (bottom - top) * (right - left) / float(height * width)


def box_around(weight: Any, center_y: int, center_x: int, height: int, width: int) -> Box:
    """A box with sides of sqrt(1 - lambda) around a centre, clipped to the image."""
    # A float32 is computed with in float32, as timm does.
    side = np.sqrt(1 - weight)
    rows, cols = int(height * side), int(width * side)
    # The timm of the paper's code cut odd sides one pixel short; timm 1.0.31 no longer does.
    top, bottom = max(0, center_y - rows // 2), min(height, center_y + (rows + 1) // 2)
    left, right = max(0, center_x - cols // 2), min(width, center_x + (cols + 1) // 2)
    return top, bottom, left, right


def apply_mix(images: Tensor, mix: Mix) -> Tensor:
    """Mix each of (B, H, W, 3) float with that at the mirrored place, in a copy."""
    return mix_(images.clone(), mix)


def mix_(images: Tensor, mix: Mix) -> Tensor:
    """As `apply_mix`, in place; the tensor is returned."""
    first = mix.take(np.zeros(1, dtype=np.int64))
    alike = all((own == own[:1]).all() for own in (mix.weight, mix.is_cutmix, mix.box))
    if alike and not first.is_cutmix[0]:
        weight = float(first.weight[0])
        partners = images.flip(0).mul_(1 - weight)
        return images.mul_(weight).add_(partners)
    if alike:
        y, end_y, x, end_x = first.box[0].tolist()
        images[:, y:end_y, x:end_x] = images[:, y:end_y, x:end_x].flip(0)
        return images
    own = np.where(mix.is_cutmix, 1.0, mix.weight)
    arrays: list[NDArray[Any]] = [own.astype(np.float32), (1 - own).astype(np.float32), mix.box.T]
    share, rest, boxes = upload(arrays, images.device)
    top, bottom, left, right = boxes[:, :, None].unbind()
    row = torch.arange(images.shape[1], device=images.device)
    column = torch.arange(images.shape[2], device=images.device)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    inside = (rows[:, :, None] & columns[:, None, :])[..., None]
    each = (slice(None), None, None, None)
    partners = images.flip(0)
    images.mul_(share[each]).add_(partners * rest[each])
    return images.copy_(torch.where(inside, partners, images))


def mix_targets(labels: Tensor, mix: Mix | None) -> MixedTargets:
    """Targets of a mixed batch: `labels` are (B,) int64, `mix` what `apply_mix` was given."""
    if mix is None:
        return MixedTargets(labels, labels, torch.ones_like(labels, dtype=torch.float32))
    (weight,) = upload([mix.weight.astype(np.float32)], labels.device)
    return MixedTargets(labels, labels.flip(0), weight)


def dense_targets(targets: MixedTargets, num_classes: int, smoothing: float) -> Tensor:
    """Targets as probabilities of all classes, for what cannot take two labels and a weight.

    (B, num_classes) float32, each row summing to 1. The smoothing is spread over all classes.
    Source: timm data/mixup.py:mixup_target.
    """
    off = smoothing / num_classes
    dense = torch.full((len(targets.labels), num_classes), off, device=targets.labels.device)
    own, partner = targets.labels[:, None], targets.partner_labels[:, None]
    on = 1.0 - smoothing
    dense.scatter_add_(1, own, on * targets.weight[:, None])
    return dense.scatter_add_(1, partner, on * (1 - targets.weight[:, None]))
