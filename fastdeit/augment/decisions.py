"""Drawing the operations of a batch from keyed randomness: no device, no global generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdeit import keyed
from fastdeit.config.augment import Interpolation
from fastdeit.keyed import U64
from fastdeit.policies.operations import NAMED_OPS, Draws, Floats, Op
from fastdeit.policies.policy import Policy

DRAWS_PER_SLOT = 8
ROW_DRAWS = 4096
"""Where the draws of rows begin in a stream; those of the slots are below."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What each image of a batch gets, in `S` slots one after another."""

    op: NDArray[np.int64]
    """(S, B) values of `Op`; IDENTITY where nothing is done."""
    argument: Floats
    """(S, B) what `Op` says."""
    is_bilinear: NDArray[np.bool_]
    """(S, B) whether a moved image is resampled bilinearly rather than bicubically."""
    fill: tuple[int, int, int]
    """RGB of what lies outside."""

    def __post_init__(self) -> None:
        if not self.op.shape == self.argument.shape == self.is_bilinear.shape or self.op.ndim != 2:
            raise ValueError(
                "op, argument and is_bilinear must be (slots, images) alike. Found: "
                f"{self.op.shape}, {self.argument.shape}, {self.is_bilinear.shape}."
            )


def sample_operations(
    policy: Policy,
    states: U64,
    height: int,
    width: int,
    interpolation: Interpolation = "bicubic",
) -> Operations:
    """Draw what each image of a batch gets.

    Args:
        policy: from `parse_policy`; the result has its `num_slots` slots.
        states: (B,) uint64, one keyed stream an image.
        height: rows of an image.
        width: columns of an image.
        interpolation: how moved images are resampled; random draws for each operation, which is
            what timm does without --train-interpolation.

    Source: timm data/auto_augment.py:RandAugment, AutoAugment, AugmentOp; torchvision
    transforms/autoaugment.py:TrivialAugmentWide.
    """
    num, length = len(states), len(policy.rows[0])
    shape = (policy.num_slots, num)
    op, argument = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    is_bilinear = np.full(shape, interpolation == "bilinear")
    names = policy.names
    name_of = np.array([[names.index(step.name) for step in row] for row in policy.rows])
    prob_of = np.array([[step.prob for step in row] for row in policy.rows])
    magnitude_of = np.array([[float(step.magnitude) for step in row] for row in policy.rows])
    for layer, rows in enumerate(_sample_rows(policy, states)):
        for step in range(length):
            slot = layer * length + step
            name, prob = name_of[rows, step], prob_of[rows, step]
            draws = [
                keyed.uniform(states, slot * DRAWS_PER_SLOT + i) for i in range(DRAWS_PER_SLOT - 2)
            ]
            u_apply, u_sign, u_normal, u_angle, u_extra, u_filter = draws
            level = _levels(policy, magnitude_of[rows, step], u_normal, u_angle)
            sign = np.where(u_sign < 0.5, 1.0, -1.0)
            if interpolation == "random":
                is_bilinear[slot] = u_filter < 0.5
            applied = u_apply < prob
            for number, known in enumerate(names):
                chosen = np.flatnonzero(applied & (name == number))
                named = NAMED_OPS[known]
                op[slot, chosen] = named.op
                argument[slot, chosen] = named.argument(
                    Draws(level[chosen], sign[chosen], u_extra[chosen], height, width)
                )
    return Operations(op, argument, is_bilinear, policy.fill)


def _sample_rows(policy: Policy, states: U64) -> NDArray[np.int64]:
    """(num_layers, B) which row each image draws in each layer."""
    num_rows = len(policy.rows)
    if policy.weights is None:
        draws = [keyed.uniform(states, ROW_DRAWS + i) for i in range(policy.num_layers)]
        return (np.stack(draws) * num_rows).astype(np.int64)
    # Drawing one after another without replacement is the order of exponential waiting times.
    waits = [
        -np.log1p(-keyed.uniform(states, ROW_DRAWS + i)) / weight
        for i, weight in enumerate(policy.weights)
    ]
    return np.argsort(np.stack(waits), axis=0, kind="stable")[: policy.num_layers]


def _levels(policy: Policy, magnitude: Floats, u_normal: Floats, u_angle: Floats) -> Floats:
    """(B,) magnitudes with the policy's noise, clipped."""
    if policy.num_bins is not None:
        return np.floor(u_normal * policy.num_bins)
    if np.isinf(policy.magnitude_std):
        magnitude = magnitude * u_normal
    elif policy.magnitude_std > 0:
        normal = np.sqrt(-2 * np.log1p(-u_normal)) * np.cos(2 * np.pi * u_angle)
        magnitude = magnitude + policy.magnitude_std * normal
    return np.clip(magnitude, 0.0, policy.magnitude_max)


JITTER_OPS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE)


def sample_jitter(ranges: tuple[float, float, float, float], states: U64) -> Operations:
    """Draw a colour jitter: brightness, contrast, saturation and hue, each image in its own order.

    `ranges` are how far the factors of the first three may be from 1 (but not below 0), and the hue
    from 0, in turns. Four slots; what has no range is IDENTITY. Source: torchvision
    transforms/transforms.py:ColorJitter.get_params; transforms/_functional_pil.py:adjust_hue for
    the hue's steps.
    """
    shape = (len(JITTER_OPS), len(states))
    op, argument = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    order = np.argsort(
        np.stack([keyed.uniform(states, ROW_DRAWS + i) for i in range(len(JITTER_OPS))]),
        axis=0,
        kind="stable",
    )
    for number, (one, span) in enumerate(zip(JITTER_OPS, ranges, strict=True)):
        if span == 0:
            continue
        u = keyed.uniform(states, number)
        if one == Op.HUE:
            value = np.trunc((-span + 2 * span * u) * 255)
        else:
            low = max(0.0, 1 - span)
            value = low + (1 + span - low) * u
        slot, image = np.nonzero(order == number)
        op[slot, image] = one
        argument[slot, image] = value[image]
    return Operations(op, argument, np.zeros(shape, dtype=bool), (0, 0, 0))
