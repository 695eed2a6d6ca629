"""`fastdeit inspect --augment`: a policy's operations beside PIL's, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastdeit import keyed
from fastdeit.augment import Operations, apply_operations, sample_operations
from fastdeit.augment.timm_on_pil import apply_with_pil
from fastdeit.keyed import Purpose
from fastdeit.policies import NAMED_OPS, Op, Policy
from fastdeit.policies.operations import Draws
from fastdeit.tools.data.contact_sheet import contact_sheet

SIDE = 224
"""Pixels of the image that is augmented."""
THUMB = 112
"""Pixels of its picture on the sheet."""
GAIN = 32
"""By how much differences are brightened."""
PAPER_GREY = 235
"""What no difference looks like."""
EACH = 3
"""Pictures of one comparison: ours, PIL's, the difference."""


class Comparison(NamedTuple):
    """One operation with one argument."""

    name: str
    """As the policy calls it."""
    argument: float
    """As `Op` says."""
    ours: NDArray[np.uint8]
    """(H, W, 3)."""
    pil: NDArray[np.uint8]
    """(H, W, 3)."""

    @property
    def has_argument(self) -> bool:
        """Whether the operation takes one."""
        return NAMED_OPS[self.name].op > Op.INVERT

    @property
    def label(self) -> str:
        """What is written below the picture."""
        name = self.name.removesuffix("Increasing").removeprefix("Wide")
        return f"{name} {self.argument:.3g}" if self.has_argument else name

    @property
    def num_different(self) -> int:
        """How many bytes differ."""
        return int((self.ours != self.pil).sum())

    @property
    def most_different(self) -> int:
        """By how much the farthest do."""
        return int(np.abs(self.ours.astype(int) - self.pil).max())


def draw_augment_sheet(image: Image.Image, policy: Policy) -> tuple[Image.Image, list[str]]:
    """Draw a policy's operations on one image, of which the centre is taken.

    (the sheet, the same in words, a line an operation).
    """
    square = _centre(image)
    pixels = np.asarray(square)
    rows = [list(_compare(square, policy, name)) for name in policy.names]
    columns = max(len(row) for row in rows)
    images, labels = _example_row(pixels, policy, EACH * columns)
    lines = []
    for row in rows:
        for comparison in row:
            difference = np.abs(comparison.ours.astype(int) - comparison.pil) * GAIN
            images += [comparison.ours, comparison.pil, PAPER_GREY - difference.clip(0, PAPER_GREY)]
            labels += [
                comparison.label,
                "PIL",
                f"{comparison.num_different} bytes differ",
            ]
        missing = EACH * (columns - len(row))
        images += [np.full_like(pixels, 255)] * missing
        labels += [""] * missing
        differing = sum(comparison.num_different for comparison in row)
        total = sum(comparison.ours.size for comparison in row)
        arguments = ", ".join(f"{comparison.argument:.4g}" for comparison in row)
        at = f" at {arguments}" if row[0].has_argument else ""
        most = max(comparison.most_different for comparison in row)
        lines.append(
            f"{row[0].name}{at}: {differing} of {total} bytes differ from PIL"
            + (f", by up to {most}" if differing else "")
        )
    return contact_sheet([_small(one) for one in images], labels, EACH * columns), lines


def _centre(image: Image.Image) -> Image.Image:
    """The central square, at `SIDE` pixels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)


def _small(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX))


def _levels(policy: Policy, name: str) -> list[float]:
    """The magnitudes at which an operation is shown: its own, and two deviations around it."""
    if policy.num_bins is not None:
        return [0, policy.num_bins // 2, policy.num_bins - 1]
    own = {step.magnitude for row in policy.rows for step in row if step.name == name}
    std = policy.magnitude_std
    if math.isinf(std):  # uniform from 0 on
        levels = {level * part for level in own for part in (0.0, 0.5, 1.0)}
    else:
        levels = {level + off for level in own for off in (-2 * std, 0.0, 2 * std)}
    return sorted({min(max(level, 0.0), policy.magnitude_max) for level in levels})


def _compare(image: Image.Image, policy: Policy, name: str) -> Iterator[Comparison]:
    """An operation at its levels, and with both signs where it has them."""
    named, seen = NAMED_OPS[name], set()
    for level in _levels(policy, name):
        for sign in (1.0, -1.0) if named.has_sign else (1.0,):
            draws = Draws(np.full(1, level), np.full(1, sign), np.full(1, 0.5), SIDE, SIDE)
            argument = float(np.broadcast_to(named.argument(draws), 1)[0])
            if argument in seen:
                continue
            seen.add(argument)
            operations = Operations(
                np.full((1, 1), int(named.op)),
                np.full((1, 1), argument),
                np.zeros((1, 1), dtype=bool),
                policy.fill,
            )
            batch = torch.from_numpy(np.asarray(image).copy())[None]
            ours = apply_operations(batch, operations)[0].numpy()
            pil = np.asarray(apply_with_pil(image, named.op, argument, policy.fill))
            yield Comparison(name, argument, ours, pil)


def _example_row(
    pixels: NDArray[np.uint8], policy: Policy, num: int
) -> tuple[list[NDArray[Any]], list[str]]:
    """The image itself, and what the whole policy makes of it."""
    keys = np.arange(num - 1, dtype=np.uint64)
    states = keyed.sample_states(0, Purpose.POLICY, 0, keys, np.zeros(num - 1, dtype=np.int64))
    operations = sample_operations(policy, states, SIDE, SIDE)
    batch = torch.from_numpy(np.repeat(pixels[None], num - 1, axis=0))
    made = apply_operations(batch, operations).numpy()
    words = [
        "+".join(Op(op).name.lower() for op in drawn if op != Op.IDENTITY) or "untouched"
        for drawn in operations.op.T
    ]
    return [pixels, *made], ["the image", *words]
