"""Where each crop is cut: the same arithmetic for every engine.

A cut is eight int32 numbers (see `CUT`): a rectangle of the source, the size to which that whole
rectangle would be resampled, and where the output's window begins in the result. Training resamples
a random rectangle to the output; evaluation resamples the whole image and looks at its centre.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fastdeit import keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.keyed_jit import uniform
from fastdeit.pipelines.plan import DEFAULT_RATIO, DEFAULT_SCALE, Plan, StepPlan

CUT = ("top", "left", "height", "width", "full_height", "full_width", "window_top", "window_left")
NUM_ATTEMPTS = 10

# Nothing here is cached on disk: numba would not notice a change of the keyed randomness, which is
# in another file.

_SCALE_LOW, _SCALE_HIGH = DEFAULT_SCALE
_RATIO_LOW, _RATIO_HIGH = DEFAULT_RATIO
_LOG_LOW, _LOG_HIGH = math.log(_RATIO_LOW), math.log(_RATIO_HIGH)


@numba.njit(nogil=True)
def random_resized_cut(state: Any, height: Any, width: Any, size: Any, cut: Any) -> None:
    """Draw one RandomResizedCrop into `cut`.

    Args:
        state: uint64, the keyed stream of (sample, copy).
        height: rows of the image.
        width: columns of the image.
        size: side of the output in pixels.
        cut: (8,) int32, written.

    Source: torchvision transforms.RandomResizedCrop.get_params: ten attempts, then the largest
        centred rectangle within the aspect's bounds.
    """
    cut[4] = cut[5] = size
    cut[6] = cut[7] = 0
    area = height * width
    for attempt in range(NUM_ATTEMPTS):
        first = 4 * attempt
        target = area * (_SCALE_LOW + (_SCALE_HIGH - _SCALE_LOW) * uniform(state, first))
        aspect = math.exp(_LOG_LOW + (_LOG_HIGH - _LOG_LOW) * uniform(state, first + 1))
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            cut[0] = int(uniform(state, first + 2) * (height - h + 1))
            cut[1] = int(uniform(state, first + 3) * (width - w + 1))
            cut[2], cut[3] = h, w
            return
    w, h = int(width), int(height)
    if width / height < _RATIO_LOW:
        h = round(w / _RATIO_LOW)
    elif width / height > _RATIO_HIGH:
        w = round(h * _RATIO_HIGH)
    cut[0], cut[1] = (height - h) // 2, (width - w) // 2
    cut[2], cut[3] = h, w


@numba.njit(nogil=True)
def center_cut(height: Any, width: Any, size: Any, shorter: Any, cut: Any) -> None:
    """Resize the shorter side to `shorter`, look at the central `size` x `size`.

    Args:
        height: rows of the image.
        width: columns of the image.
        size: side of the output in pixels.
        shorter: the shorter side after resizing, at least `size`.
        cut: (8,) int32, written.

    Source: torchvision functional.resize with one number, then center_crop, as in deit
        datasets.py:build_transform.
    """
    cut[0] = cut[1] = 0
    cut[2], cut[3] = height, width
    if width <= height:
        cut[4], cut[5] = int(shorter * height / width), shorter
    else:
        cut[4], cut[5] = shorter, int(shorter * width / height)
    cut[6] = round((cut[4] - size) / 2.0)
    cut[7] = round((cut[5] - size) / 2.0)


@numba.njit(nogil=True)
def _fill_cuts(
    is_training: Any, states: Any, heights: Any, widths: Any, size: Any, shorter: Any, cuts: Any
) -> None:
    """Fill (B, 8) cuts, one row a sample."""
    for i in range(len(cuts)):
        if is_training:
            random_resized_cut(states[i], heights[i], widths[i], size, cuts[i])
        else:
            center_cut(heights[i], widths[i], size, shorter, cuts[i])


def shorter_side(plan: Plan) -> int:
    """The shorter side to which evaluation resizes (deit: int(size / crop ratio))."""
    return int(plan.image_size / plan.eval_crop_ratio)


def plan_cuts(plan: Plan, index: DatasetIndex, step: StepPlan) -> NDArray[np.int32]:
    """The cuts of one step.

    Args:
        plan: decides how crops are drawn.
        index: knows the images' sizes.
        step: the samples.

    Returns:
        (b, 8) int32, columns as in `CUT`.
    """
    cuts = np.zeros((len(step.samples), len(CUT)), dtype=np.int32)
    states = keyed.sample_states(
        plan.seed, Purpose.CROP, step.epoch, plan.keys[step.samples], step.copies
    )
    heights = index.heights[step.samples].astype(np.int64)
    widths = index.widths[step.samples].astype(np.int64)
    _fill_cuts(plan.is_training, states, heights, widths, plan.image_size, shorter_side(plan), cuts)
    return cuts
