"""Where each crop is cut: the same arithmetic for every engine.

A cut is eight int32 numbers (see `CUT`): a rectangle of the source, the size to which that whole
rectangle would be resampled, and where the output's window begins in the result. Training resamples
a random rectangle to the output; evaluation resamples the whole image and looks at its centre. A
rectangle may reach beyond the image, where it is black.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError, keyed
from fastdeit.keyed import Purpose
from fastdeit.machine.numba_cache import compiled
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.plan.order import Plan, StepPlan

CUT = ("top", "left", "height", "width", "full_height", "full_width", "window_top", "window_left")
NUM_ATTEMPTS = 10
CENTER, RESIZED, PADDED = 0, 1, 2
BILINEAR, BICUBIC = 1, 2
"""Interpolations, named by the radius of their kernel in pixels."""


class CropRule(NamedTuple):
    """What of a plan decides its cuts, as numba takes it."""

    kind: int
    """`CENTER`, `RESIZED` or `PADDED`."""
    size: int
    """Side of the output in pixels."""
    shorter: int
    """`CENTER`: the shorter side after resizing (deit: int(size / crop ratio))."""
    scale_low: float
    """`RESIZED`: least part of the image's area."""
    scale_high: float
    """`RESIZED`: greatest part of the image's area."""
    ratio_low: float
    """`RESIZED`: least width over height."""
    ratio_high: float
    """`RESIZED`: greatest width over height."""
    padding: int
    """`PADDED`: width of the border in pixels."""
    radius: int
    """Interpolation: `BICUBIC` or `BILINEAR`."""


def crop_rule(plan: Plan) -> CropRule:
    """The rule of a plan's cuts."""
    kinds = {"center": CENTER, "resized": RESIZED, "padded": PADDED}
    return CropRule(
        kind=kinds[plan.crop] if plan.is_training else CENTER,
        size=plan.image_size,
        shorter=int(plan.image_size / plan.eval_crop_ratio),
        scale_low=float(plan.crop_scale[0]),
        scale_high=float(plan.crop_scale[1]),
        ratio_low=float(plan.crop_ratio[0]),
        ratio_high=float(plan.crop_ratio[1]),
        padding=plan.crop_padding,
        radius=BICUBIC if plan.interpolation == "bicubic" else BILINEAR,
    )


# `fastdeit.keyed` for numba: one stream at a time, the same bits.
_mix64 = compiled()(keyed.mix64)
_GOLDEN = keyed.GOLDEN
_ONE, _S11 = np.uint64(1), np.uint64(11)


@compiled()
def absorb(state: Any, word: Any) -> Any:
    """`keyed.absorb`: mix one uint64 into a uint64 state."""
    return _mix64((state ^ word) + _GOLDEN)


@compiled()
def uniform(state: Any, index: Any) -> Any:
    """`keyed.uniform`: draw number `index` of a stream as float64 in [0, 1)."""
    bits = _mix64(state + (np.uint64(index) + _ONE) * _GOLDEN) >> _S11
    return np.float64(bits) * 2.0**-53


@compiled()
def _random_resized_cut(rule: Any, state: Any, height: Any, width: Any, cut: Any) -> None:
    """Draw one RandomResizedCrop into `cut`."""
    cut[4] = cut[5] = rule.size
    cut[6] = cut[7] = 0
    ratio_low, ratio_high = rule.ratio_low, rule.ratio_high
    log_low, log_high = math.log(ratio_low), math.log(ratio_high)
    area = height * width
    # Source: torchvision transforms.RandomResizedCrop.get_params: ten attempts, then the largest
    # centred rectangle within the aspect's bounds.
    for attempt in range(NUM_ATTEMPTS):
        first = 4 * attempt
        part = rule.scale_low + (rule.scale_high - rule.scale_low) * uniform(state, first)
        target = area * part
        aspect = math.exp(log_low + (log_high - log_low) * uniform(state, first + 1))
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            cut[0] = int(uniform(state, first + 2) * (height - h + 1))
            cut[1] = int(uniform(state, first + 3) * (width - w + 1))
            cut[2], cut[3] = h, w
            return
    w, h = int(width), int(height)
    if width / height < ratio_low:
        h = round(w / ratio_low)
    elif width / height > ratio_high:
        w = round(h * ratio_high)
    cut[0], cut[1] = (height - h) // 2, (width - w) // 2
    cut[2], cut[3] = h, w


@compiled()
def _padded_cut(rule: Any, state: Any, height: Any, width: Any, cut: Any) -> None:
    """Draw one RandomCrop of the image with a black border into `cut`."""
    # The size is at most the image's with both borders. Source: torchvision transforms.RandomCrop
    # with padding, as deit datasets.py:build_transform takes it up to 32 pixels.
    border = 2 * rule.padding - rule.size + 1
    cut[0] = int(uniform(state, 0) * (height + border)) - rule.padding
    cut[1] = int(uniform(state, 1) * (width + border)) - rule.padding
    cut[2] = cut[3] = cut[4] = cut[5] = rule.size
    cut[6] = cut[7] = 0


@compiled()
def _center_cut(rule: Any, height: Any, width: Any, cut: Any) -> None:
    """Resize the shorter side to `rule.shorter`, look at the centre."""
    cut[0] = cut[1] = 0
    # Source: torchvision functional.resize with one number, then center_crop, as in deit
    # datasets.py:build_transform.
    cut[2], cut[3] = height, width
    if width <= height:
        cut[4], cut[5] = int(rule.shorter * height / width), rule.shorter
    else:
        cut[4], cut[5] = rule.shorter, int(rule.shorter * width / height)
    cut[6] = round((cut[4] - rule.size) / 2.0)
    cut[7] = round((cut[5] - rule.size) / 2.0)


@compiled()
def fill_cut(rule: Any, state: Any, height: Any, width: Any, cut: Any) -> None:
    """Decide one cut; `state` has no effect in evaluation."""
    if rule.kind == RESIZED:
        _random_resized_cut(rule, state, height, width, cut)
    elif rule.kind == PADDED:
        _padded_cut(rule, state, height, width, cut)
    else:
        _center_cut(rule, height, width, cut)


@compiled()
def _fill_cuts(rule: Any, states: Any, heights: Any, widths: Any, cuts: Any) -> None:
    for i in range(len(cuts)):
        fill_cut(rule, states[i], heights[i], widths[i], cuts[i])


def check_sizes(plan: Plan, index: DatasetIndex) -> None:
    """Raise a UserError for an image that is too small for a padded crop of the plan."""
    if not plan.is_training or plan.crop != "padded":
        return
    least = plan.image_size - 2 * plan.crop_padding
    small = np.flatnonzero(np.minimum(index.heights, index.widths) < least)
    if len(small):
        first = int(small[0])
        raise UserError(
            f"images must have {least} pixels or more a side for a padded crop of "
            f"{plan.image_size}. Found: {index.widths[first]}x{index.heights[first]}, "
            f"{index.describe(first)}. Pass --train-crop resized."
        )


def plan_cuts(plan: Plan, index: DatasetIndex, step: StepPlan) -> NDArray[np.int32]:
    """The cuts of one step: (b, 8) int32, columns as in `CUT`."""
    cuts = np.zeros((len(step.samples), len(CUT)), dtype=np.int32)
    states = keyed.sample_states(
        plan.seed, Purpose.CROP, step.epoch, plan.keys[step.samples], step.copies
    )
    heights = index.heights[step.samples].astype(np.int64)
    widths = index.widths[step.samples].astype(np.int64)
    _fill_cuts(crop_rule(plan), states, heights, widths, cuts)
    return cuts
