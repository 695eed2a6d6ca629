"""The largest batch that fits into a device's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fit:
    """What a search found."""

    batch_size: int
    """Images; 0 if not even one fits."""
    stopped_by: Literal["memory", "cap", "time"]
    """Why no larger one: it does not fit, it may not be tried, or it would take too long."""


def largest_batch(
    seconds_of: Callable[[int], float | None], most: int, batch_s: float | None = None
) -> Fit:
    """Double from one image until a batch does not fit, then bisect between.

    Args:
        seconds_of: tries a batch of so many images; how long it took, None if it does not fit.
        most: no larger batch is tried.
        batch_s: no batch is tried that would probably take longer, in seconds; None tries all.

    Returns:
        The largest batch, to an eighth of the largest power of two that fits.
    """
    low, size = 0, 1
    while True:
        took = seconds_of(size)
        if took is None:
            break
        low = size
        if low == most:
            return Fit(low, "cap")
        if batch_s is not None and 2 * took > batch_s:
            return Fit(low, "time")
        size = min(2 * low, most)
    high, step = size, max(1, low // 8)
    while high - low > step:
        middle = low + max(step, (high - low) // 2 // step * step)
        if seconds_of(middle) is None:
            high = middle
        else:
            low = middle
    return Fit(low, "memory")
