"""Batches as a step on a GPU gets them: the CPU's bytes, while the GPU is busy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import make_plan
from gpu_waits import DEVICES

from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import open_pipeline

ENGINES = [
    pytest.param("ffcv", marks=pytest.mark.ffcv),
    pytest.param("dali", marks=pytest.mark.dali),
    "pil",
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_batches_are_handed_out(engine: Any, device: str, drawn: DatasetIndex) -> None:
    """On a GPU the bytes are those on a CPU, while the caller's stream is busy too."""
    at = torch.device(device)
    plan = make_plan(drawn)
    with open_pipeline(drawn, plan, engine, PipelineOptions(threads=2)) as batches:
        expected = [
            replace(batch, images_nhwc_u8=batch.images_nhwc_u8.clone()) for batch in batches
        ]
    size = 4096 if device == "cuda" else 64
    busy = torch.randn(size, size, device=at)
    with open_pipeline(drawn, plan, engine, PipelineOptions(threads=2, device=at)) as batches:
        for left, right in zip(batches, expected, strict=True):
            busy = busy @ busy * 1e-4
            images, labels = left.images_nhwc_u8.clone(), left.labels.clone()
            assert images.device.type == device
            assert torch.equal(images.cpu(), right.images_nhwc_u8)
            assert torch.equal(labels.cpu(), right.labels)
