"""`fastdeit.keyed` for numba: one stream at a time, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdeit import keyed
from fastdeit.compiled import compiled

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
