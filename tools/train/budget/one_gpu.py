"""What is known of one device: from kept rows of `fastdeit bench`, or from real steps taken now."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdeit.checkpoints.classes import Classes, numbered_classes, read_classes
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.errors import UserError
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.measured.rows import Kept, read_folder
from fastdeit.models import make_model
from fastdeit.models.flops import Peak, peak_flops
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import choose_engine, open_pipeline, pipeline_options, train_plan
from fastdeit.text.figures import rounded
from fastdeit.tools.train.budget.scaling import OneGPU
from fastdeit.training.session import assemble
from fastdeit.training.steps import (
    NUM_CLASSES,
    TEACHER,
    TrainingSteps,
    in_memory,
    is_taught,
    stand_in_teacher,
    work_of,
)
from fastdeit.training.teacher import load_teacher

STEP = "fastdeit step"
STEP_CASE = re.compile(r"(?:step|end-to-end): (?P<recipe>.+), batch (?P<batch>\d+)")
LOADER = re.compile(r"fastdeit (?:ffcv|dali|pil)(?:, (?P<copies>\d+) copies)?")
LOADER_CASE = re.compile(r"loaders, (?P<cores>\d+) cores?")
"""What `bench step` and `bench loaders` call their rows."""


# ---- from rows ---------------------------------------------------------------------------------
def from_rows(path: Path, recipe: str, config: TrainConfig) -> OneGPU:
    """What an --out folder of `bench`, or a file of rows, says of a recipe's step and of a loader.

    Raises:
        UserError: they do not hold the step, or that of several machines, or of another model.
        OSError: they cannot be read.
    """
    rows = read_folder(path)
    steps = [
        (match["recipe"], int(match["batch"]), kept)
        for kept in rows
        if kept.row.name == STEP and (match := STEP_CASE.fullmatch(kept.row.case))
    ]
    precision = config.run.precision
    found = [
        (batch, kept)
        for name, batch, kept in steps
        if name == recipe and precision in ("auto", kept.row.settings.get("precision"))
        if kept.row.median > 0
    ]
    if not found:
        among = "" if precision == "auto" else f" in {precision}"
        known = ", ".join(
            dict.fromkeys(
                f"{name} in {one.row.settings.get('precision')}" for name, _, one in steps
            )
        )
        way = "" if precision == "auto" else f" --precision {precision}"
        raise UserError(
            f"rows must hold those of the step of {recipe}{among}. Found: {known or 'none'} at "
            f"{path}. Run `fastdeit bench step --recipe {recipe}{way} --out {path}` first, or pass "
            "--rate IMG_PER_S."
        )
    kinds = list(dict.fromkeys(_kind_of(kept) for _, kept in found))
    if len(kinds) > 1:
        raise UserError(
            "rows of a step must be of one machine, model, size and precision. Found: "
            f"{'; '.join(kinds)}. Give one of the files at {path}, or pass --precision."
        )
    row = found[-1][1].row
    if (row.model, row.image_size) != (config.model.model, config.data.image_size):
        raise UserError(
            f"rows must be of {config.model.model} at {config.data.image_size} px. Found: "
            f"{row.model} at {row.image_size} px. Pass --model {row.model} --image-size "
            f"{row.image_size}, or give other rows."
        )
    by_batch: dict[int, list[float]] = {}
    for batch, kept in found:
        by_batch.setdefault(batch, []).append(kept.row.median)
    fracs = [
        kept.row.phases_ms["backward"] / total
        for _, kept in found
        if (total := sum(v for name, v in kept.row.phases_ms.items() if name != "data wait")) > 0
    ]
    loader = _loader_of(rows, config.data.repeats)
    return OneGPU(
        rates=tuple((batch, statistics.median(by_batch[batch])) for batch in sorted(by_batch)),
        what=f"measured on {kinds[0]}",
        backward_frac=statistics.median(fracs) if fracs else None,
        loader_img_per_s=None if loader is None else loader[0],
        loader_what="" if loader is None else loader[1],
    )


def _kind_of(kept: Kept) -> str:
    """What must be alike in rows that are put together."""
    row, environment = kept.row, kept.environment
    where = environment.get("gpu") if environment.get("device") != "cpu" else None
    where = where or f"{environment.get('num_cores')} cores of {environment.get('cpu')}"
    return f"{where}, {row.model}, {row.image_size} px, {row.settings.get('precision')}"


def _loader_of(rows: list[Kept], copies: int) -> tuple[float, str] | None:
    """Samples a second and core of our fastest engine, on the most cores that were measured."""
    found = [
        (int(case["cores"]), kept.row.median, kept.row.name)
        for kept in rows
        if (name := LOADER.fullmatch(kept.row.name))
        and int(name["copies"] or 1) == copies
        and (case := LOADER_CASE.fullmatch(kept.row.case))
    ]
    if not found:
        return None
    cores, rate, engine = max(found)
    return rate / cores, f"measured: {engine}, {rate:,.0f} on {cores} cores"


# ---- from steps --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured on one device."""

    img_per_s: float
    """Training."""
    batch_size: int
    """Images a step on this device."""
    num_steps: int
    """Timed steps, after the warm-up."""
    data: str
    """Where the images came from."""
    compute: Compute
    """Where it ran."""
    peak: Peak
    """Of the device."""
    mfu: float
    """Part of the peak that the model's operations took."""
    train_flops: int
    """Floating-point operations of training on one image, the teacher's included."""

    @property
    def text(self) -> str:
        """What was measured, where, and what the MFU is a part of."""
        return (
            f"measured: {self.num_steps} steps of {self.batch_size} images ({self.data}) on "
            f"{self.compute.reason}; MFU {self.mfu:.0%} of "
            f"{rounded(self.peak.flops_per_s / 1e12, 3)} TFLOP/s ({self.peak.source})"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The same as plain types."""
        return {
            "img_per_s": self.img_per_s,
            "num_steps": self.num_steps,
            "batch_size_each": self.batch_size,
            "data": self.data,
            "compute": self.compute.reason,
            "mfu": self.mfu,
            "peak": asdict(self.peak),
        }


def measure_pace(
    config: TrainConfig,
    batch_size: int,
    num_steps: int,
    data: Path | None,
    teacher: Path | None,
    on_step: Callable[[], None],
    stand_in: ModelConfig = TEACHER,
) -> Pace:
    """Train for some steps on one device and time them.

    Args:
        config: the recipe.
        batch_size: this device's share of a step.
        num_steps: timed steps; `num_warm_up` more come before.
        data: a dataset to decode, or None for synthetic images on the device.
        teacher: checkpoint of the teacher of a distilled recipe; None takes `stand_in` with random
            weights.
        on_step: called after each step.
        stand_in: which model that is.

    Raises:
        UserError: the model, the data, the teacher or the device cannot be had, or the share of a
            step does not fit into the device's memory.
    """
    compute = choose_compute(config.run.device, config.run.precision)
    local = replace(config, data=replace(config.data, batch_size=batch_size))
    # ---- what is trained -----------------------------------------------------------------------
    classes = Classes(numbered_classes(NUM_CLASSES))
    if teacher is not None:
        classes = read_classes(load_checkpoint(teacher))
    index = synthetic_index(max(256, batch_size * 8), len(classes))
    if data is not None:
        index = open_dataset(data)
        classes = index.classes
    plan = train_plan(local.data, index, local.run)
    model = make_model(local.model, len(classes), local.data.image_size, local.run.seed)
    taught_by: nn.Module | None = None
    if teacher is not None:
        given = replace(local, distill=replace(local.distill, teacher=teacher))
        taught_by = load_teacher(given, classes, compute)
    elif is_taught(local):
        taught_by = compute.place(stand_in_teacher(local, len(classes), stand_in))
    flops = work_of(model, taught_by, local.data.image_size).train_flops
    engine = "synthetic" if data is None else local.data.engine
    # ---- steps ---------------------------------------------------------------------------------
    with open_pipeline(index, plan, engine, pipeline_options(local.data, compute.device)) as source:
        with in_memory(batch_size, compute, ", or more --gpus"):
            steps = TrainingSteps(local, assemble(local, model, taught_by, compute), source)
            steps.take(num_warm_up(compute.device), on_step)
            seconds, _ = steps.take(num_steps, on_step)
    rate = batch_size * num_steps / seconds
    peak = peak_flops(compute)
    return Pace(
        img_per_s=rate,
        batch_size=batch_size,
        num_steps=num_steps,
        data="synthetic" if data is None else f"{data} through {choose_engine(index, engine).name}",
        compute=compute,
        peak=peak,
        mfu=rate * flops / peak.flops_per_s,
        train_flops=flops,
    )


def num_warm_up(device: torch.device) -> int:
    """Steps before the clock starts: on a GPU kernels are compiled and chosen in the first ones."""
    return 10 if device.type == "cuda" else 1
