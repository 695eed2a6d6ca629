"""Keyed randomness: the published generator, the same bits everywhere, no shared numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from fastdeit import keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.plan import crops
from fastdeit.pipelines.plan.crops import plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

KEYS = np.arange(1000, dtype=np.uint64)
COPIES = np.zeros(1000, dtype=np.int64)


def test_stream_is_splitmix64() -> None:
    """A stream from state 1234567 is the SplitMix64 sequence of Vigna's reference program."""
    state = np.array([1234567], dtype=np.uint64)
    drawn = [int(keyed.draw(state, i)[0]) for i in range(5)]
    assert drawn == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_numba_gives_the_same_bits() -> None:
    """The compiled functions return what numpy returns, for states and for draws."""
    epoch = keyed.epoch_state(7, Purpose.CROP, 3)
    states = keyed.sample_states(7, Purpose.CROP, 3, KEYS, COPIES + 2)
    for key, state in zip(KEYS[:50], states[:50], strict=True):
        with_key = np.uint64(crops.absorb(epoch, key))  # numba hands Python a plain integer
        assert crops.absorb(with_key, np.uint64(2)) == state
        assert crops.uniform(state, 5) == keyed.uniform(np.array([state]), 5)[0]


def test_every_part_of_the_key_counts() -> None:
    """Changing seed, purpose, epoch, key or copy gives other, uncorrelated numbers."""
    first = keyed.uniform(keyed.sample_states(0, Purpose.CROP, 0, KEYS, COPIES), 0)
    others = {
        "seed": keyed.sample_states(1, Purpose.CROP, 0, KEYS, COPIES),
        "purpose": keyed.sample_states(0, Purpose.FLIP, 0, KEYS, COPIES),
        "epoch": keyed.sample_states(0, Purpose.CROP, 1, KEYS, COPIES),
        "key": keyed.sample_states(0, Purpose.CROP, 0, KEYS + np.uint64(1), COPIES),
        "copy": keyed.sample_states(0, Purpose.CROP, 0, KEYS, COPIES + 1),
    }
    for name, states in others.items():
        second = keyed.uniform(states, 0)
        assert not np.array_equal(first, second), name
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.15, name  # 5 sigma at n = 1,000


NUM = 200_000
"""Numbers in each of the tests that follow; they are fixed, so the tests always end alike."""
ORDINARY = np.arange(NUM, dtype=np.uint64)
HASHED = np.random.default_rng(0).integers(0, 2**64, NUM, dtype=np.uint64)


def streams() -> dict[str, np.ndarray[Any, Any]]:
    """Uniform numbers that neighbour each other along every part of the key."""
    first = np.zeros(NUM, dtype=np.int64)
    few = np.arange(NUM // 1000, dtype=np.uint64)
    return {
        "keys in a row": keyed.uniform(keyed.sample_states(0, Purpose.CROP, 0, ORDINARY, first), 0),
        "hashed keys": keyed.uniform(keyed.sample_states(0, Purpose.CROP, 0, HASHED, first), 0),
        "later draws": keyed.uniform(keyed.sample_states(0, Purpose.CROP, 0, HASHED, first), 37),
        "draws of a stream": np.concatenate(
            [
                keyed.uniform(keyed.sample_states(0, Purpose.CROP, 0, few, first[: len(few)]), i)
                for i in range(1000)
            ]
        ),
        "copies": keyed.uniform(
            keyed.sample_states(0, Purpose.CROP, 0, ORDINARY // np.uint64(4), np.arange(NUM) % 4), 0
        ),
        "epochs": np.concatenate(
            [
                keyed.uniform(keyed.sample_states(0, Purpose.CROP, e, few, first[: len(few)]), 0)
                for e in range(1000)
            ]
        ),
    }


STREAMS = streams()


@pytest.mark.parametrize("name", STREAMS)
def test_uniform(name: str) -> None:
    """Kolmogorov-Smirnov and chi-square over 1,000 cells: the numbers fill [0, 1) evenly."""
    values = STREAMS[name]
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    counts, _ = np.histogram(values, bins=1000, range=(0, 1))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("bits", ["high", "low"])
@pytest.mark.parametrize("name", STREAMS)
def test_neighbours_are_independent(name: str, bits: str) -> None:
    """Pairs of neighbours fill a square of 32 x 32 cells evenly, by high and by low bits."""
    values = STREAMS[name]
    if bits == "low":
        values = values * 2**20 % 1
    cells = (values * 32).astype(np.int64)
    for distance in (1, 2, 4):
        table = np.bincount(cells[:-distance] * 32 + cells[distance:], minlength=1024)
        assert stats.chisquare(table).pvalue > 1e-3, distance


def test_each_bit_flips_half_of_the_others() -> None:
    """Changing any one bit of a key changes each bit of the number in half of the cases."""
    keys, first = HASHED[:4000], np.zeros(4000, dtype=np.int64)
    drawn = keyed.draw(keyed.sample_states(0, Purpose.CROP, 0, keys, first), 0)
    for bit in range(64):
        other = keys ^ (np.uint64(1) << np.uint64(bit))
        changed = drawn ^ keyed.draw(keyed.sample_states(0, Purpose.CROP, 0, other, first), 0)
        flips = np.unpackbits(changed.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert abs(flips - 0.5).max() < 0.05  # 6 sigma


def test_copies_of_an_image_get_unlike_crops() -> None:
    """The areas of neighbouring copies' crops are not correlated, nor those of epochs."""
    plan = Plan(keys=HASHED[:20_000], batch_size=4, image_size=32, is_training=True)
    index = synthetic_index(20_000, 2)

    def areas(epoch: int, copy: int) -> Any:
        samples = np.arange(20_000)
        step = StepPlan(epoch, 0, samples, np.full(20_000, copy))
        cuts = plan_cuts(plan, index, step)
        return cuts[:, 2].astype(float) * cuts[:, 3]

    for other in (areas(0, 1), areas(1, 0)):
        assert abs(np.corrcoef(areas(0, 0), other)[0, 1]) < 0.036  # 5 sigma


def test_numbers_do_not_depend_on_the_batch() -> None:
    """A sample draws the same alone as among others."""
    together = keyed.sample_states(3, Purpose.ERASE, 2, KEYS, COPIES)
    alone = keyed.sample_states(3, Purpose.ERASE, 2, KEYS[17:18], COPIES[17:18])
    assert together[17] == alone[0]
