"""Choosing an engine and opening a pipeline: the one way in for training, tools and benchmarks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fastdeit import UserError
from fastdeit.config import DataConfig, RunConfig, TrainConfig
from fastdeit.config.data import PADDED_UP_TO
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions
from fastdeit.pipelines.plan.order import Plan

Engine = Literal["auto", "ffcv", "dali", "pil", "synthetic"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine, and why."""

    name: str
    """ffcv, dali, pil or synthetic."""
    reason: str
    """For the log."""


def is_installed(engine: str) -> bool:
    """Whether the library of an engine can be found; it is not imported."""
    module = {"ffcv": "ffcv", "dali": "nvidia.dali"}.get(engine)
    if module is None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # no package `nvidia` at all
        return False


def choose_engine(index: DatasetIndex, engine: Engine = "auto") -> EngineChoice:
    """Choose the fastest engine that is installed and reads the container, if none is named."""
    if engine != "auto":
        return EngineChoice(engine, "as asked")
    if index.container == "beton" and is_installed("ffcv"):
        return EngineChoice("ffcv", "a .beton, and FFCV is installed")
    why_not_ffcv = "FFCV is not installed" if index.container == "beton" else "not a .beton"
    if is_installed("dali"):
        return EngineChoice("dali", f"{why_not_ffcv}; DALI is installed")
    return EngineChoice("pil", f"{why_not_ffcv}; DALI is not installed")


def open_pipeline(
    dataset: DatasetIndex | Path,
    plan: Plan,
    engine: Engine = "auto",
    options: PipelineOptions | None = None,
) -> Pipeline:
    """Open a pipeline.

    Args:
        dataset: from `open_dataset`, or the path to open.
        plan: which samples in which step, and how they are cropped.
        engine: what decodes; "auto" as `choose_engine` says.
        options: threads, device, what to do about images that do not decode.

    Raises:
        UserError: the engine is not installed or does not read the container.
    """
    index = dataset if isinstance(dataset, DatasetIndex) else open_dataset(dataset)
    options = options or PipelineOptions()
    name = choose_engine(index, engine).name
    if options.dali_device == "gpu" and name != "dali":
        raise UserError(
            f"dali_device gpu needs engine dali. Found: engine {name}. Pass --engine dali."
        )
    if name == "ffcv":
        from fastdeit.pipelines.engines.ffcv_engine import FfcvPipeline

        return FfcvPipeline(index, plan, options)
    if name == "dali":
        from fastdeit.pipelines.engines.dali_engine import DaliPipeline

        if options.dali_device == "cpu":
            return DaliPipeline(index, plan, options)
        from fastdeit.pipelines.engines.dali_gpu_engine import DaliGpuPipeline

        return DaliGpuPipeline(index, plan, options)
    if name == "pil":
        from fastdeit.pipelines.engines.pil_engine import PilPipeline

        return PilPipeline(index, plan, options)
    if name == "synthetic":
        from fastdeit.pipelines.engines.synthetic import SyntheticPipeline

        return SyntheticPipeline(index, plan, options)
    raise UserError(
        f"engine must be auto, ffcv, dali, pil or synthetic. Found: {name}. Pass --engine auto."
    )


def pipeline_options(data: DataConfig, device: torch.device) -> PipelineOptions:
    """How the pipelines of a run work."""
    return PipelineOptions(
        threads=data.threads,
        device=device,
        bad_images=data.bad_images,
        dali_device=data.dali_device,
        hw_decoder_load=data.hw_decoder_load,
    )


def train_plan(
    data: DataConfig, index: DatasetIndex, run: RunConfig, rank: int = 0, world_size: int = 1
) -> Plan:
    """The plan of training of one process."""
    return Plan(
        keys=index.keys,
        batch_size=data.batch_size,
        image_size=data.image_size,
        is_training=True,
        seed=run.seed,
        repeats=data.repeats,
        order="upstream" if run.compat == "upstream" else "keyed",
        sampling=data.sampling,
        labels=index.labels,
        crop=data.crop,
        crop_scale=data.crop_scale,
        crop_ratio=data.crop_ratio,
        eval_crop_ratio=_center_ratio(data.image_size, data.eval_crop_ratio),
        interpolation=data.interpolation,
        rank=rank,
        world_size=world_size,
    )


def _center_ratio(image_size: int, crop_ratio: float) -> float:
    """The ratio of a centre crop: up to 32 pixels the whole image is looked at."""
    return 1.0 if image_size <= PADDED_UP_TO else crop_ratio


def eval_plan(
    index: DatasetIndex,
    image_size: int,
    crop_ratio: float,
    batch_size: int,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    rank: int = 0,
    world_size: int = 1,
) -> Plan:
    """The plan of evaluation of one process; together they see each image once.

    Up to 32 pixels the whole image is looked at, as DeiT does (CIFAR from scratch).
    """
    return Plan(
        keys=index.keys,
        batch_size=batch_size,
        image_size=image_size,
        is_training=False,
        eval_crop_ratio=_center_ratio(image_size, crop_ratio),
        interpolation=interpolation,
        rank=rank,
        world_size=world_size,
    )


@dataclass(frozen=True, slots=True)
class Derived:
    """Numbers that no option gives, and that training will have."""

    peak_lr: float
    """Learning rate at the end of the warm-up."""
    steps_per_epoch: int
    """Optimiser steps an epoch."""
    num_steps: int
    """Optimiser steps of the whole run."""
    images_per_epoch: int
    """Images shown in an epoch, repeats counted, over all processes."""
    distinct_images_per_epoch: int
    """Different images among them, in the first epoch."""
    num_train_images: int
    num_processes: int
    """How many processes share a step."""
    images_per_process: int
    """Images of a step that a process gets, at most."""
    images_at_once: int
    """Images that a process computes at once, at most; fewer with --accumulate."""


def derive(config: TrainConfig, plan: Plan) -> Derived:
    """Work out what follows from a configuration and its `train_plan`, whose arithmetic this is."""
    shown = plan.num_steps * plan.batch_size
    samples, _ = plan.stream(0)
    return Derived(
        peak_lr=config.optim.lr(plan.batch_size),
        steps_per_epoch=plan.num_steps,
        num_steps=config.optim.epochs * plan.num_steps,
        images_per_epoch=shown,
        distinct_images_per_epoch=len(np.unique(samples[:shown])),
        num_train_images=len(plan.keys),
        num_processes=plan.world_size,
        images_per_process=plan.max_local_batch,
        images_at_once=-(-plan.max_local_batch // config.optim.accumulate),
    )
