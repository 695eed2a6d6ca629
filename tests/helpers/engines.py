"""Engines and plans for the tests that run through all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.pipelines.engines.pil_engine import resample_with_pil
from fastdeit.pipelines.plan.crops import plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

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


def drawn(index: DatasetIndex, plan: Any, step: Any, samples: list[int]) -> torch.Tensor:
    """What PIL draws for these samples at the places of a step."""
    changed = StepPlan(step.epoch, step.step, np.array(samples), step.copies)
    cuts = plan_cuts(plan, index, changed)
    images = [
        resample_with_pil(decode_with_pil(index, sample), cut, plan.image_size)
        for sample, cut in zip(samples, cuts, strict=True)
    ]
    return torch.from_numpy(np.stack(images))
