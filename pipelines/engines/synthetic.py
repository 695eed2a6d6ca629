"""Batches of noise that already lie on the device: the speed of everything but the loader."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions, Reasons
from fastdeit.pipelines.plan.order import Plan, StepPlan


class SyntheticPipeline(Pipeline):
    """Hands out the same noise again and again."""

    name = "synthetic"

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """See `Pipeline`; the noise lies on the device of the options."""
        super().__init__(index, plan, options)
        shape = (plan.max_local_batch, plan.image_size, plan.image_size, 3)
        self._noise = torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)

    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        for step in requests:
            yield self._noise[: len(step.samples)], {}


def synthetic_index(num_images: int, num_classes: int) -> DatasetIndex:
    """An index of images that do not exist, for a `SyntheticPipeline`."""
    zeros = np.zeros(num_images, dtype=np.int64)
    return DatasetIndex(
        path=Path("synthetic"),
        container="imagefolder",
        files=(),
        file_ids=zeros.astype(np.int32),
        offsets=zeros,
        sizes=zeros,
        modes=zeros.astype(np.uint8),
        labels=np.arange(num_images) % num_classes,
        widths=np.full(num_images, 500, dtype=np.int32),
        heights=np.full(num_images, 375, dtype=np.int32),
        keys=np.arange(num_images, dtype=np.uint64),
        class_ids=tuple(f"class{number}" for number in range(num_classes)),
        class_names=tuple(f"class {number}" for number in range(num_classes)),
    )
