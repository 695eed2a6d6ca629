"""Choosing an engine and opening a pipeline: the one way in for training, tools and benchmarks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from fastdeit import UserError
from fastdeit.config import DataConfig
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.pipeline import Pipeline
from fastdeit.pipelines.plan import Plan

Engine = Literal["auto", "ffcv", "dali", "pil"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine, and why."""

    name: str
    """ffcv, dali or pil."""
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
    """Choose the fastest engine that is installed and reads the container.

    Args:
        index: the dataset.
        engine: "auto", or the one to take.
    """
    if engine != "auto":
        return EngineChoice(engine, "as asked")
    if index.container == "beton" and is_installed("ffcv"):
        return EngineChoice("ffcv", "a .beton, and FFCV is installed")
    why_not_ffcv = "FFCV is not installed" if index.container == "beton" else "not a .beton"
    if is_installed("dali"):
        return EngineChoice("dali", f"{why_not_ffcv}; DALI is installed")
    return EngineChoice("pil", f"{why_not_ffcv}; DALI is not installed")


def open_pipeline(
    index: DatasetIndex, plan: Plan, engine: Engine = "auto", threads: int = 0
) -> Pipeline:
    """Open a pipeline.

    Args:
        index: from `open_dataset`.
        plan: which samples in which step, and how they are cropped.
        engine: what decodes; "auto" as `choose_engine` says.
        threads: decoding threads; 0 takes every usable core.

    Raises:
        UserError: the engine is not installed or does not read the container.
    """
    name = choose_engine(index, engine).name
    if name == "ffcv":
        from fastdeit.pipelines.ffcv_engine import FfcvPipeline

        return FfcvPipeline(index, plan, threads)
    if name == "dali":
        from fastdeit.pipelines.dali_engine import DaliPipeline

        return DaliPipeline(index, plan, threads)
    if name == "pil":
        from fastdeit.pipelines.pil_engine import PilPipeline

        return PilPipeline(index, plan, threads)
    raise UserError(f"engine must be auto, ffcv, dali or pil. Found: {name}. Pass --engine auto.")


def train_plan(data: DataConfig, index: DatasetIndex, seed: int) -> Plan:
    """The plan of training on one process."""
    return Plan(
        keys=index.keys,
        batch_size=data.batch_size,
        image_size=data.image_size,
        is_training=True,
        seed=seed,
        repeats=data.repeats,
    )


def eval_plan(index: DatasetIndex, image_size: int, crop_ratio: float, batch_size: int) -> Plan:
    """The plan of evaluation on one process."""
    return Plan(
        keys=index.keys,
        batch_size=batch_size,
        image_size=image_size,
        is_training=False,
        eval_crop_ratio=crop_ratio,
    )
