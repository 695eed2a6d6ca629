"""Engines and plans for the tests that run through all of them."""

from __future__ import annotations

from typing import Any

import pytest

from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.plan.order import Plan

SIDE = 48
ENGINES = [
    pytest.param("ffcv", marks=pytest.mark.ffcv),
    pytest.param("dali", marks=pytest.mark.dali),
    pytest.param("pil"),
]


def make_plan(index: DatasetIndex, is_training: bool = True, **changes: Any) -> Plan:
    """A plan whose steps cut through the copies of an image, at `SIDE` pixels."""
    values: dict[str, Any] = {
        "keys": index.keys,
        "batch_size": 40,
        "image_size": SIDE,
        "is_training": is_training,
        "repeats": 3,
        "seed": 5,
        **changes,
    }
    return Plan(**values)
