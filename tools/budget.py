"""`fastdeit budget`: how long a recipe takes here, and whether that is within a limit."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastdeit.config import TrainConfig
from fastdeit.errors import require
from fastdeit.paper.training_time import (
    PaperTime,
    num_eval_passes,
    paper_times,
)
from fastdeit.paper.transfer import dataset_row
from fastdeit.recipes import fill_recipe
from fastdeit.text.figures import duration, parse_hours, rounded
from fastdeit.text.progress import progress
from fastdeit.text.tables import text_table
from fastdeit.tools.train.recipe_list import check_recipe

if TYPE_CHECKING:
    from fastdeit.pipelines.pace import Pace

DEFAULT_STEPS = 50


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run takes."""

    train_hours: float
    """All steps."""
    eval_hours: float
    """All evaluations."""
    eval_passes: int
    """How often the validation set is evaluated."""
    steps_per_epoch: int
    """Of the whole run."""

    @property
    def hours(self) -> float:
        """Both."""
        return self.train_hours + self.eval_hours


def budget(
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")],
    /,
    gpus: int = 1,
    rate: float | None = None,
    within: str | None = None,
    steps: int | None = None,
    num_images: int | None = None,
    num_val_images: int | None = None,
    batch_size: int | None = None,
    model: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    train: Path | None = None,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    teacher: Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto",
) -> int:
    """Say how long a recipe takes, from some real training steps or from a given rate.

    The steps run on one device, at the share of the batch that it gets beside the others. A table
    goes to stderr; the last line on stdout is one JSON object.

    Args:
        recipe: as in `fastdeit train RECIPE`.
        gpus: how many devices share a step; that so many are as many times as fast is assumed.
        rate: images a second of one device, measured elsewhere; then nothing is run.
        within: a limit such as 72h, 90m, 3d or 1d12h; the exit code is 1 if the run takes longer.
        steps: timed steps; 50 unless given. Give more with --train, whose loader has read ahead.
        num_images: images of the training set; those of --train, else those of the recipe's dataset
            (ImageNet: 1,281,167).
        num_val_images: images of the validation set; unless given those of the recipe's dataset.
        batch_size: in place of the recipe's.
        model: in place of the recipe's, a name of timm.
        image_size: in place of the recipe's, in pixels.
        epochs: in place of the recipe's.
        train: decode this dataset instead of taking synthetic images that lie on the device.
        engine: what decodes it.
        teacher: checkpoint of the teacher of a distilled recipe; unless given, random weights of
            regnety_160, or of demo-teacher's model for demo.
        device: where to measure; auto, cpu, cuda or cuda:N.
        precision: as in `fastdeit train`.

    Returns:
        0, or 1 if the run takes longer than --within.
    """
    # ---- what is asked -------------------------------------------------------------------------
    within_hours = None if within is None else parse_hours(within)
    for name, value in (
        ("gpus", gpus),
        ("steps", steps),
        ("num_images", num_images),
        ("num_val_images", num_val_images),
    ):
        option = f"--{name.replace('_', '-')}"
        require(value is None or value >= 1, name, value, "must be at least 1", f"Pass {option} 8.")
    if rate is not None:
        require(0 < rate < math.inf, "rate", rate, "must be above 0", "Pass --rate 3000, say.")
        for name, is_given in (
            ("steps", steps is not None),
            ("train", train is not None),
            ("teacher", teacher is not None),
            ("device", device != "auto"),
            ("precision", precision != "auto"),
        ):
            require(not is_given, name, "--rate too", "has no effect with a rate", "Leave one out.")
    require(
        engine == "auto" or train is not None,
        "engine",
        engine,
        "has no effect without a dataset to decode",
        "Pass --train DATASET too.",
    )
    config = resolve(recipe, batch_size, model, image_size, epochs, device, precision)
    require(
        gpus <= config.data.batch_size,
        "gpus",
        gpus,
        f"must be at most the images of a step ({config.data.batch_size})",
        "Pass fewer --gpus or a larger --batch-size.",
    )
    require(
        teacher is None or config.distill.distillation != "none",
        "teacher",
        teacher,
        f"has no effect with {recipe}, which is not distilled",
        "Leave it out.",
    )
    config = replace(config, data=replace(config.data, engine=engine))

    # ---- how fast ------------------------------------------------------------------------------
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.pace import count_work, measure_pace, num_warm_up, usual_teacher

    about = dataset_row(config.data.dataset)
    if num_images is None:
        num_images = about.train if train is None else len(open_dataset(train))
    num_val_images = num_val_images or about.test
    steps_per_epoch = count_steps(config, num_images)
    pace, stand_in = None, usual_teacher(recipe)
    if rate is None:
        from fastdeit.machine.device import choose_compute

        num_steps = steps or DEFAULT_STEPS
        warm_up = num_warm_up(choose_compute(device, precision).device)
        with progress(None, "measuring", warm_up + num_steps, unit="step") as bar:
            pace = measure_pace(config, gpus, num_steps, train, teacher, bar.update, stand_in)
        rate = pace.img_per_s
    work = count_work(config, stand_in) if pace is None else pace.work

    # ---- how long ------------------------------------------------------------------------------
    eval_passes = num_eval_passes(config)
    eval_rate = gpus * rate * work.train_flops / work.eval_flops
    estimate = Estimate(
        train_hours=hours_of(config.optim.epochs * steps_per_epoch * config.data.batch_size)
        / (gpus * rate),
        eval_hours=hours_of(eval_passes * num_val_images) / eval_rate,
        eval_passes=eval_passes,
        steps_per_epoch=steps_per_epoch,
    )
    paper = paper_times(config)
    assumed = assumptions(gpus, work.teacher, is_synthetic=pace is not None and train is None)
    lines = table(config, gpus, rate, pace, estimate, num_images, within_hours, paper)
    if pace is not None:
        lines.append(pace_text(pace))
    for line in [*lines, *(f"assumed: {line}" for line in assumed)]:
        print(line, file=sys.stderr)
    is_within = None if within_hours is None else estimate.hours <= within_hours
    facts = {
        "recipe": recipe,
        "model": config.model.model,
        "image_size": config.data.image_size,
        "epochs": config.optim.epochs,
        "batch_size": config.data.batch_size,
        "num_images": num_images,
        "num_val_images": num_val_images,
        "steps_per_epoch": steps_per_epoch,
        "gpus": gpus,
        "img_per_s_each": rate,
        "img_per_s": gpus * rate,
        "measured": None if pace is None else measured_facts(pace),
        "train_hours": estimate.train_hours,
        "eval_hours": estimate.eval_hours,
        "hours": estimate.hours,
        "within_hours": within_hours,
        "is_within": is_within,
        "paper": [{"hours": time.hours, "what": time.what} for time in paper],
        "assumed": assumed,
    }
    print(json.dumps(facts))
    return 1 if is_within is False else 0


budget.check_args = check_recipe  # type: ignore[attr-defined]


def resolve(
    recipe: str,
    batch_size: int | None,
    model: str | None,
    image_size: int | None,
    epochs: int | None,
    device: str,
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"],
) -> TrainConfig:
    """The recipe with what is changed in it.

    Raises:
        UserError: there is no such recipe, or the changes do not fit to it.
    """
    check_recipe([recipe])
    config = fill_recipe(recipe, Path("nowhere"))  # what a recipe cannot know is not needed here
    return replace(
        config,
        data=replace(
            config.data,
            batch_size=config.data.batch_size if batch_size is None else batch_size,
            image_size=config.data.image_size if image_size is None else image_size,
        ),
        model=config.model if model is None else replace(config.model, model=model),
        optim=config.optim if epochs is None else replace(config.optim, epochs=epochs),
        run=replace(config.run, device=device, precision=precision),
    )


def count_steps(config: TrainConfig, num_images: int) -> int:
    """Steps of an epoch over so many images."""
    from fastdeit.pipelines.engines.synthetic import synthetic_index
    from fastdeit.pipelines.open import train_plan

    return train_plan(config.data, synthetic_index(num_images, 1), config.run).num_steps


def hours_of(num_images: float) -> float:
    """Hours at one image a second."""
    return num_images / 3600


def assumptions(gpus: int, teacher: str | None, is_synthetic: bool) -> list[str]:
    """What the figures take for granted, a line each."""
    lines = ["evaluation does as many operations a second as training; it was not run"]
    if gpus > 1:
        lines.append(f"{gpus} devices are {gpus} times as fast as one; this was not measured")
    if is_synthetic:
        lines.append("the images arrive as fast as they are used; --train measures a loader")
    if teacher is not None:
        lines.append(f"the teacher is {teacher}")
    lines.append("saving, and compiling once, are not counted")
    return lines


def table(
    config: TrainConfig,
    gpus: int,
    rate: float,
    pace: Pace | None,
    estimate: Estimate,
    num_images: int,
    within_hours: float | None,
    paper: list[PaperTime],
) -> list[str]:
    """The figures, a line each."""
    how = "as given" if pace is None else f"MFU {pace.mfu:.0%}, measured"
    rows = [
        ("one device", rate_text(rate), how),
        *([(f"{gpus} devices", rate_text(gpus * rate), "assumed")] if gpus > 1 else []),
        (
            "training",
            f"{estimate.train_hours:,.2f} h",
            f"{config.optim.epochs} epochs of {estimate.steps_per_epoch} steps",
        ),
        (
            "evaluation",
            f"{estimate.eval_hours:,.2f} h",
            f"{estimate.eval_passes} passes, by their operations",
        ),
        ("in all", f"{estimate.hours:,.2f} h", duration(estimate.hours * 3600)),
    ]
    if within_hours is not None:
        spare_h = within_hours - estimate.hours
        verdict = "inside by" if spare_h >= 0 else "over by"
        rows.append(
            ("within", f"{within_hours:,.2f} h", f"{verdict} {duration(abs(spare_h) * 3600)}")
        )
    rows += [("the paper", f"{time.hours:,.2f} h", time.what) for time in paper]
    title = (
        f"{config.model.model}, {config.data.image_size} px, {config.optim.epochs} epochs of "
        f"{num_images:,} images, batch {config.data.batch_size:,}"
    )
    return [title, *(f"  {line}" for line in text_table(rows, "lrl").split("\n"))]


def rate_text(img_per_s: float) -> str:
    """A rate with three digits at least."""
    return f"{img_per_s:,.0f} img/s" if img_per_s >= 100 else f"{img_per_s:.3g} img/s"


def pace_text(pace: Pace) -> str:
    """What was measured, where, and what the MFU is a part of."""
    return (
        f"measured: {pace.num_steps} steps of {pace.batch_size} images ({pace.data}) on "
        f"{pace.compute.reason}; peak {rounded(pace.peak.flops_per_s / 1e12, 3)} TFLOP/s "
        f"({pace.peak.source})"
    )


def measured_facts(pace: Pace) -> dict[str, Any]:
    """The same as plain types."""
    return {
        "num_steps": pace.num_steps,
        "batch_size_each": pace.batch_size,
        "data": pace.data,
        "compute": pace.compute.reason,
        "mfu": pace.mfu,
        "peak": asdict(pace.peak),
    }
