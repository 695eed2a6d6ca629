"""Keyed randomness: the published generator, the same bits everywhere, no shared numbers."""

from __future__ import annotations

import numpy as np

from fastdeit import keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines import keyed_jit

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
        with_key = np.uint64(keyed_jit.absorb(epoch, key))  # numba hands Python a plain integer
        assert keyed_jit.absorb(with_key, np.uint64(2)) == state
        assert keyed_jit.uniform(state, 5) == keyed.uniform(np.array([state]), 5)[0]


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


def test_uniform_is_uniform() -> None:
    """A hundred thousand neighbouring keys fill [0, 1) evenly (chi-square over 100 cells)."""
    keys = np.arange(100_000, dtype=np.uint64)
    states = keyed.sample_states(0, Purpose.CROP, 0, keys, np.zeros(len(keys), dtype=np.int64))
    for index in range(3):
        values = keyed.uniform(states, index)
        assert values.min() >= 0
        assert values.max() < 1
        counts, _ = np.histogram(values, bins=100, range=(0, 1))
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert chi_square < 173  # p = 1e-5 at 99 degrees of freedom


def test_numbers_do_not_depend_on_the_batch() -> None:
    """A sample draws the same alone as among others."""
    together = keyed.sample_states(3, Purpose.ERASE, 2, KEYS, COPIES)
    alone = keyed.sample_states(3, Purpose.ERASE, 2, KEYS[17:18], COPIES[17:18])
    assert together[17] == alone[0]
