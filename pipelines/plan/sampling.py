"""Which images of unequal classes an epoch shows: a pure function of (seed, epoch, keys, labels).

Each class gets its exact share of an epoch's draws; what is rounded comes out over the epochs. It
is filled from keyed shuffles of the class's images, one after another and on into the next epoch:
no image is drawn again before all others of its class were.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastdeit import keyed
from fastdeit.keyed import U64, Purpose

Sampling = Literal["natural", "sqrt", "balanced"]

GOLDEN_RATIO = (5**0.5 - 1) / 2


def sampled_images(
    keys: U64,
    labels: NDArray[np.int64],
    sampling: Literal["sqrt", "balanced"],
    num_draws: int,
    seed: int,
    epoch: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images of an epoch from 0, in the order in which they are shown.

    Args:
        keys: (N,) the stable key of each sample.
        labels: (N,) the class number of each sample.
        sampling: balanced draws as often from every class, sqrt in proportion to the square root of
            how many images it has.
        num_draws: how many images the epoch shows.
        seed: of the order.
        epoch: from 0.

    Returns:
        (sample numbers, how often each was drawn before in this epoch), each (num_draws,).
    """
    classes = images_by_class(keys, labels)
    sizes = np.array([len(members) for members in classes], dtype=np.float64)
    ends = np.cumsum(np.sqrt(sizes) if sampling == "sqrt" else np.ones_like(sizes))
    ends *= num_draws / ends[-1]
    offsets = _offsets(seed, epoch + 1)
    drawn_before = np.zeros_like(ends)
    for offset in offsets[:-1]:
        drawn_before += _rounded(ends, offset)
    begins = np.diff(drawn_before, prepend=0).astype(np.int64)
    counts = np.diff(_rounded(ends, offsets[-1]), prepend=0).astype(np.int64)
    samples, times = np.empty(num_draws, np.int64), np.empty(num_draws, np.int64)
    place = 0
    for members, begin, count in zip(classes, begins.tolist(), counts.tolist(), strict=True):
        own = slice(place, place + count)
        samples[own], times[own] = _draws(members, keys[members], begin, count, seed)
        place += count
    states = keyed.sample_states(seed, Purpose.ORDER, epoch, keys[samples], times)
    order = np.argsort(states, kind="stable")
    return samples[order], times[order]


def images_by_class(keys: U64, labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The sample numbers of each class that has any, the class with the least key first.

    Of (N,) keys and class numbers. Sets that number the same classes in other ways agree.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    least = np.minimum.reduceat(keys[order], starts)
    classes = np.split(order, starts[1:])
    return [classes[number] for number in np.argsort(least, kind="stable").tolist()]


def _offsets(seed: int, num_epochs: int) -> NDArray[np.float64]:
    """One for each epoch, from 0 to 1, spread evenly over any number of them."""
    first = keyed.uniform(np.array([keyed.epoch_state(seed, Purpose.CLASS_SHARE, 0)]), 0)
    return np.mod(first + np.arange(num_epochs) * GOLDEN_RATIO, 1.0)


def _rounded(ends: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    """Where the draws of each class end among those of an epoch, as whole numbers.

    The same offset for all rounds each share up or down; over the epochs both come out.
    """
    last = round(ends[-1])
    rounded: NDArray[np.float64] = np.minimum(np.floor(ends + offset), last)
    rounded[-1] = last
    return rounded


def _draws(
    members: NDArray[np.int64], keys: U64, begin: int, count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws `begin` to `begin + count` of a class, counted over the whole run.

    Returns:
        (sample numbers, how often each was drawn since `begin`), each (count,).
    """
    num = len(members)
    first, skipped = divmod(begin, num)
    shuffles = -(-(skipped + count) // num)
    cycles = np.repeat(np.arange(shuffles), num)
    states = keyed.sample_states(
        seed, Purpose.CLASS_ORDER, 0, np.tile(keys, shuffles), first + cycles
    )
    shuffled = np.argsort(states.reshape(shuffles, num), axis=1, kind="stable").reshape(-1)
    drawn = shuffled[skipped : skipped + count]
    times = cycles[skipped : skipped + count]
    # Of the first shuffle those before `begin` were not drawn in this one.
    was_skipped = np.zeros(num, dtype=np.int64)
    was_skipped[shuffled[:skipped]] = 1
    return members[drawn], times - was_skipped[drawn]
