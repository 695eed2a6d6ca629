"""Randomness as a pure function: (seed, purpose, epoch, sample key, copy) -> numbers.

There is no global generator and no worker seeding: what is drawn for a sample never depends on the
batch size, the rank, the engine, the thread or what ran before. Each tuple is absorbed into a
64-bit state by the SplitMix64 finaliser; the state then starts a SplitMix64 stream, of which draw
`i` can be computed without the others.

`mix64`, `absorb` and `draw_u64` hold only wrapping uint64 arithmetic, so that the same source runs
vectorised in numpy and compiled by numba (`fastdeit.pipelines.plan.crops`), with the same bits.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), fig. 17.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_S11 = np.uint64(11)
_TWO_POW_MINUS_53 = 2.0**-53


class Purpose(IntEnum):
    """What a stream is for; two purposes never share numbers."""

    ORDER = 1
    CROP = 2
    FLIP = 3
    ERASE = 4
    MIX = 5
    INIT = 6
    STORE = 7
    POLICY = 8
    JITTER = 9
    DROP_PATH = 10
    CLASS_ORDER = 11
    CLASS_SHARE = 12
    SPLIT = 13


def mix64(z: Any) -> Any:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every bit affects every bit.

    It takes uint64, a numpy array (wrapping) or a numba scalar.
    """
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)


def absorb(state: Any, word: Any) -> Any:
    """Mix one 64-bit word into a state; injective in the word for a given state."""
    return mix64((state ^ word) + GOLDEN)


def draw_u64(state: Any, index: Any) -> Any:
    """Draw number `index` (uint64, from 0) of the stream that starts at `state`."""
    return mix64(state + (index + np.uint64(1)) * GOLDEN)


def epoch_state(seed: int, purpose: Purpose, epoch: int) -> np.uint64:
    """The state of everything that is drawn for one purpose in one epoch, from 0.

    Of the seed, any integer, the low 64 bits count.
    """
    state = np.zeros(1, dtype=np.uint64)  # an array: numpy warns when a scalar wraps
    for word in (seed, int(purpose), epoch):
        state = absorb(state, np.uint64(word & 0xFFFF_FFFF_FFFF_FFFF))
    final: np.uint64 = state[0]
    return final


def sample_states(
    seed: int, purpose: Purpose, epoch: int, keys: U64, copies: NDArray[np.integer[Any]]
) -> U64:
    """(B,) uint64 states of a batch of (sample, copy) pairs, in an epoch from 0.

    `keys` are (B,) stable sample keys, `copies` (B,) integers, which repeat of the image.
    """
    state = np.full(len(keys), epoch_state(seed, purpose, epoch), dtype=np.uint64)
    mixed: U64 = absorb(absorb(state, keys), copies.astype(np.uint64))
    return mixed


def draw(states: U64, index: int) -> U64:
    """Draw number `index` of each stream as 64 random bits: (B,) uint64."""
    bits: U64 = draw_u64(states, np.array([index], dtype=np.uint64))  # an array: scalars would warn
    return bits


def uniform(states: U64, index: int) -> NDArray[np.float64]:
    """Draw number `index` (from 0) of each stream as a float64 in [0, 1), with 53 random bits."""
    result: NDArray[np.float64] = (draw(states, index) >> _S11).astype(np.float64)
    result *= _TWO_POW_MINUS_53
    return result


def step_seed(seed: int, purpose: Purpose, epoch: int, step: int, word: int = 0) -> int:
    """A seed of 64 bits for what a whole step shares; epoch and step count from 0.

    `word` are 64 bits that tell apart what draws in the same step; 0 where all draw alike.
    """
    state = absorb(np.array([epoch_state(seed, purpose, epoch)]), np.array([step], dtype=np.uint64))
    if word:
        state = absorb(state, np.array([word], dtype=np.uint64))
    return int(state[0])


def step_generator(
    seed: int, purpose: Purpose, epoch: int, step: int, word: int = 0
) -> np.random.Generator:
    """A numpy generator for decisions of a step, such as Mixup's lambda; see `step_seed`."""
    return np.random.Generator(np.random.Philox(key=step_seed(seed, purpose, epoch, step, word)))
