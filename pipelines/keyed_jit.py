"""`fastdeit.keyed` for numba: one stream at a time, the same bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from fastdeit import keyed

_mix64 = numba.njit(keyed.mix64)
_GOLDEN = keyed.GOLDEN
_ONE, _S11 = np.uint64(1), np.uint64(11)


@numba.njit(nogil=True)
def absorb(state: Any, word: Any) -> Any:
    """`keyed.absorb`: mix one uint64 into a uint64 state."""
    return _mix64((state ^ word) + _GOLDEN)


@numba.njit(nogil=True)
def uniform(state: Any, index: Any) -> Any:
    """`keyed.uniform`: draw number `index` of a stream as float64 in [0, 1)."""
    bits = _mix64(state + (np.uint64(index) + _ONE) * _GOLDEN) >> _S11
    return np.float64(bits) * 2.0**-53
