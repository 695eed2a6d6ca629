"""The graph of DALI's GPU engine: run on the CPU against PIL, and on a GPU as users run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import SIDE, make_plan

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.pipelines.engines.pil_engine import resample_with_pil
from fastdeit.pipelines.engines.pipeline import PipelineOptions, group_copies
from fastdeit.pipelines.open import open_pipeline
from fastdeit.pipelines.plan.crops import crop_rule, plan_cuts
from fastdeit.pipelines.plan.order import StepPlan

pytestmark = pytest.mark.dali


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", ["resized", "padded", "evaluation"])
def test_cuts_are_those_of_the_plan(
    kind: str, interpolation: str, containers: dict[str, Path]
) -> None:
    """Every copy is at its place, a few levels from PIL's pixels."""
    from fastdeit.pipelines.engines.dali_gpu_engine import cuts_of_images, cutting_graph, places_of

    index = open_dataset(containers["val"])
    options: dict[str, Any] = {"interpolation": interpolation, "repeats": 3, "batch_size": 40}
    if kind == "padded":
        options |= {"crop": "padded", "image_size": 24}
    plan = make_plan(index, kind != "evaluation", **options)
    (step,) = plan.steps(0)
    cuts = plan_cuts(plan, index, step)
    groups = group_copies(step)
    most = 3 if plan.is_training else 1

    def source() -> Any:
        encoded = [
            np.frombuffer(index.read(sample), dtype=np.uint8).copy() for sample, _, _ in groups
        ]
        return encoded, cuts_of_images(step, cuts, most)

    pipe = cutting_graph(
        source,
        "cpu",
        most,
        plan.image_size,
        interpolation,
        0.65,
        batch_size=40,
        num_threads=2,
        device_id=None,
        prefetch_queue_depth=1,
    )
    made = np.stack([np.asarray(output.as_tensor()) for output in pipe.run()])
    copies, numbers = places_of(groups)
    found = made[copies, numbers].astype(int)
    expected = np.stack(
        [
            resample_with_pil(
                decode_with_pil(index, sample), cut, plan.image_size, crop_rule(plan).radius
            )
            for sample, cut in zip(step.samples.tolist(), cuts, strict=True)
        ]
    )
    difference = np.abs(found - expected)
    if kind == "padded":
        assert difference.max() == 0
    else:
        assert difference.mean() < 0.3
        assert (difference <= 2).mean() > 0.98
        assert difference.max() <= 24


def test_an_image_that_stands_in_for_its_neighbour() -> None:
    """A run longer than the copies of an image is decoded in parts; no cut is lost."""
    from fastdeit.pipelines.engines.dali_gpu_engine import cuts_of_images, places_of

    step = StepPlan(0, 0, np.array([4, 7, 7, 7, 7, 7, 9]), np.array([2, 0, 1, 2, 0, 1, 0]))
    groups = group_copies(step, 3)
    assert groups == [(4, 0, 1), (7, 1, 3), (7, 4, 2), (9, 6, 1)]
    assert group_copies(step) == [(4, 0, 1), (7, 1, 5), (9, 6, 1)]
    cuts = np.arange(7, dtype=np.int32)[:, None].repeat(8, axis=1)
    by_image = np.stack(cuts_of_images(step, cuts, 3))
    copies, numbers = places_of(groups)
    assert np.array_equal(by_image[numbers, copies], cuts)


def test_it_needs_a_gpu(containers: dict[str, Path]) -> None:
    """Asking for it with batches on the CPU is one error with the way out."""
    index = open_dataset(containers["val"])
    options = PipelineOptions(threads=1, dali_device="gpu")
    with pytest.raises(UserError, match=r"dali_device gpu needs a GPU. Found: device cpu"):
        open_pipeline(index, make_plan(index), "dali", options)


@pytest.mark.gpu
def test_on_a_gpu(drawn: DatasetIndex) -> None:
    """The same samples as through PIL, and nearly the same pixels."""
    index, device = drawn, torch.device("cuda")
    options = PipelineOptions(threads=2, device=device, dali_device="gpu")
    with open_pipeline(index, make_plan(index), "dali", options) as batches:
        found = list(batches)
    with open_pipeline(index, make_plan(index), "pil", PipelineOptions(threads=2)) as batches:
        expected = list(batches)
    for left, right in zip(found, expected, strict=True):
        assert left.images_nhwc_u8.device.type == "cuda"
        assert left.images_nhwc_u8.shape == (40, SIDE, SIDE, 3)
        assert torch.equal(left.labels.cpu(), right.labels)
        difference = (left.images_nhwc_u8.cpu().int() - right.images_nhwc_u8.int()).abs().float()
        assert difference.mean() < 2
