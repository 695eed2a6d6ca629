"""Rare images that fill a step are decoded by each engine as by PIL, each showing cut anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES, make_plan

from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import open_pipeline


@pytest.mark.parametrize("engine", ENGINES[:-1])
def test_a_class_of_one_image(engine: Any, drawn: DatasetIndex) -> None:
    """It is half of the epoch: follows itself, and crosses the ends of the steps."""
    labels = np.zeros(len(drawn), dtype=np.int64)
    labels[7] = 1
    plan = make_plan(drawn, sampling="balanced", labels=labels)
    samples, _ = plan.stream(0)
    assert (samples == 7).sum() >= 47
    shown = []
    for name in (engine, "pil"):
        with open_pipeline(drawn, plan, name, PipelineOptions(threads=2)) as batches:
            shown.append([(b.images_nhwc_u8.clone(), b.labels.clone()) for b in batches])
    for one, other in zip(*shown, strict=True):
        assert all(map(torch.equal, one, other))
    images = torch.cat([images for images, _ in shown[0]])
    rare = images[torch.from_numpy(samples[: len(images)] == 7)]
    assert len(torch.unique(rare, dim=0)) == len(rare)
