"""From options to plans and pipelines, and how many threads a rank takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdeit import UserError
from fastdeit.config import DataConfig, RunConfig
from fastdeit.machine import threads as cores
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import eval_plan, open_pipeline, pipeline_options, train_plan
from fastdeit.pipelines.plan.order import Plan

INDEX = synthetic_index(600, 3)


def data(**changes: Any) -> DataConfig:
    """Options for data at the paper's values."""
    return DataConfig(train=Path("train"), val=Path("val"), **{"batch_size": 64, **changes})


def run(**changes: Any) -> RunConfig:
    """Options of a run."""
    return RunConfig(out=Path("run"), **changes)


def test_the_papers_plan() -> None:
    """Without options: RandomResizedCrop, bicubic, our order, as in Table 9."""
    plan = train_plan(data(), INDEX, run(seed=4))
    assert (plan.crop, plan.crop_scale, plan.crop_ratio) == ("resized", (0.08, 1.0), (3 / 4, 4 / 3))
    assert (plan.interpolation, plan.order, plan.repeats) == ("bicubic", "keyed", 3)
    assert (plan.image_size, plan.seed, plan.is_training) == (224, 4, True)


@pytest.mark.parametrize(
    ("size", "asked", "crop"),
    [(32, "auto", "padded"), (33, "auto", "resized"), (32, "resized", "resized")],
)
def test_small_images_are_padded(size: int, asked: str, crop: str) -> None:
    """Up to 32 pixels DeiT pads and cuts; what is asked for counts."""
    assert train_plan(data(image_size=size, train_crop=asked), INDEX, run()).crop == crop


def test_options_reach_the_plan() -> None:
    """Each option of the crops and of the order."""
    changed = data(
        crop_scale=(0.5, 0.9),
        crop_ratio=(0.9, 1.1),
        interpolation="bilinear",
        repeats=2,
    )
    plan = train_plan(changed, INDEX, run(compat="upstream"))
    assert (plan.crop_scale, plan.crop_ratio) == ((0.5, 0.9), (0.9, 1.1))
    assert (plan.interpolation, plan.crop, plan.repeats) == ("bilinear", "resized", 2)
    assert plan.order == "upstream"
    assert eval_plan(INDEX, 64, 0.9, 10, "bilinear").interpolation == "bilinear"


def test_evaluation_looks_at_the_whole_of_small_images() -> None:
    """Up to 32 pixels DeiT neither resizes nor cuts in evaluation."""
    assert eval_plan(INDEX, 32, 0.875, 10).eval_crop_ratio == 1
    assert eval_plan(INDEX, 33, 0.875, 10).eval_crop_ratio == 0.875


def test_options_reach_the_pipeline() -> None:
    """Threads, device, bad images and DALI's device."""
    changed = data(threads=3, bad_images="skip", dali_device="gpu", hw_decoder_load=0.5)
    options = pipeline_options(changed, torch.device("meta"))
    expected = PipelineOptions(
        threads=3,
        device=torch.device("meta"),
        bad_images="skip",
        dali_device="gpu",
        hw_decoder_load=0.5,
    )
    assert options == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_scale": (0.5, 0.1)}, r"crop_scale must be two numbers .* Found: \(0.5, 0.1\)"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be two numbers above 0"),
        ({"crop_scale": (0.1, 1.5)}, "crop_scale must be two numbers above 0 and at most 1"),
        ({"crop_ratio": (2.0, 1.0)}, r"crop_ratio must be two numbers .* Found: \(2.0, 1.0\)"),
        ({"hw_decoder_load": 1.5}, "hw_decoder_load must be from 0 to 1. Found: 1.5"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    """Each is one error with the value and the rule."""
    with pytest.raises(UserError, match=message):
        data(**change)


def test_images_too_small_for_a_padded_crop() -> None:
    """One that even its borders do not make large enough is named."""
    INDEX.heights[7] = 20
    try:
        plan = train_plan(data(image_size=32, train_crop="padded"), INDEX, run())
        with pytest.raises(UserError, match=r"24 pixels or more .* Found: 500x20, .*sample 7"):
            open_pipeline(INDEX, plan, "synthetic")
    finally:
        INDEX.heights[7] = 375


def plan_of(**changes: Any) -> Plan:
    """A training plan of `INDEX`."""
    values: dict[str, Any] = {"keys": INDEX.keys, "batch_size": 8, "image_size": 32, **changes}
    return Plan(**{"is_training": True, **values})


@pytest.mark.parametrize(
    "change",
    [
        {"keys": [1, 2, 3] * 5},
        {"batch_size": 8.0},
        {"batch_size": 0},
        {"image_size": 0},
        {"repeats": 0},
        {"order": "file"},
        {"crop": "none"},
        {"crop_scale": (1.0, 0.5)},
        {"crop_ratio": (-1.0, 1.0)},
        {"crop_padding": -1},
        {"interpolation": "nearest"},
        {"eval_crop_ratio": 0.0},
        {"world_size": 0},
    ],
)
def test_wrong_values_of_a_plan(change: dict[str, Any]) -> None:
    """Each is named with what was found, before anything is computed."""
    (name,) = change
    with pytest.raises(UserError, match=rf"{name} of a plan must be .* Found: "):
        plan_of(**change)


def test_a_plan_of_another_dataset() -> None:
    """Keys that are not the dataset's are refused, by number and by value."""
    for keys in (INDEX.keys + np.uint64(1), INDEX.keys[::-1].copy(), np.tile(INDEX.keys, 2)):
        with pytest.raises(UserError, match="a plan must have the keys of the dataset"):
            open_pipeline(INDEX, plan_of(keys=keys), "synthetic")


def test_a_closed_pipeline() -> None:
    """It says so; closing it again does no harm."""
    with open_pipeline(INDEX, plan_of(), "synthetic") as batches:
        next(iter(batches))
    batches.close()
    with pytest.raises(RuntimeError, match="this pipeline was closed"):
        next(iter(batches))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 0},
        {"epoch": -1, "step": 0},
        {"epoch": 0, "step": 76},
        {"epoch": 0.5, "step": 0},
        {"epoch": "1", "step": 0},
    ],
)
def test_no_position(state: dict[str, Any]) -> None:
    """What is no position of the plan is refused, and the old one kept."""
    with open_pipeline(INDEX, plan_of(), "synthetic") as batches:
        batches.load_state_dict({"epoch": 2, "step": 75})
        with pytest.raises(UserError, match="a position must be an epoch and a step of at most 75"):
            batches.load_state_dict(state)
        assert batches.state_dict() == {"epoch": 2, "step": 75}
        assert list(batches) == []
        assert batches.state_dict() == {"epoch": 3, "step": 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there() -> None:
    """Batches on a GPU without one are refused at opening."""
    options = PipelineOptions(device=torch.device("cuda"))
    with pytest.raises(UserError, match=r"device must be there. Found: cuda, but no GPU"):
        open_pipeline(INDEX, plan_of(), "synthetic", options)


def test_dalis_gpu_needs_dali() -> None:
    """The option is not ignored where another engine is taken."""
    with pytest.raises(UserError, match=r"dali_device gpu needs engine dali. Found: engine synth"):
        open_pipeline(INDEX, plan_of(), "synthetic", PipelineOptions(dali_device="gpu"))


def test_a_path_is_opened(containers: dict[str, Path]) -> None:
    """A pipeline opens from the path of a dataset too."""
    keys = open_dataset(containers["val"]).keys
    plan = Plan(keys=keys, batch_size=10, image_size=32, is_training=False)
    with open_pipeline(containers["val"], plan, "synthetic") as batches:
        assert len(batches.index) == 40
        assert [tuple(batch.images_nhwc_u8.shape) for batch in batches] == [(10, 32, 32, 3)] * 4


@pytest.mark.parametrize(
    ("usable", "ranks", "shares"),
    [
        (16, 1, [16]),
        (16, 4, [4, 4, 4, 4]),
        (16, 3, [6, 5, 5]),
        (2, 4, [1, 1, 1, 1]),
    ],
)
def test_ranks_share_the_cores(
    usable: int, ranks: int, shares: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchrun starts on a machine takes all cores together, and each at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    monkeypatch.setattr(cores, "OWN_CGROUPS", Path("/nowhere"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    found = []
    for rank in range(ranks):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append(cores.num_rank_cores())
    assert found == shares
