"""`fastdeit budget`: how long a recipe takes, on how many GPUs, and whether within a limit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastdeit.config import TrainConfig
from fastdeit.errors import UserError, require
from fastdeit.paper.training_time import num_eval_passes, paper_times
from fastdeit.paper.transfer import dataset_row
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.text.figures import parse_hours
from fastdeit.text.progress import progress
from fastdeit.tools.train.budget.said import assumptions, loader_line, paper_line, table
from fastdeit.tools.train.budget.scaling import MACHINES, MachineChanges, OneGPU, Run, predict
from fastdeit.tools.train.recipe_list import check_recipe

if TYPE_CHECKING:
    from fastdeit.tools.train.budget.one_gpu import Pace

DEFAULT_STEPS = 50
LEAVE_OUT = "Leave it out, or pass another."
IMAGE_BYTES = 51_000
"""Source: docs/benchmarks.rst of libffcv/ffcv: 65.5 GB for ImageNet at 512 pixels, JPEG q90."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is changed in the recipe."""

    batch_size: int | None = None
    """In place of the recipe's, over all GPUs."""
    model: str | None = None
    """In place of the recipe's, a name of timm."""
    image_size: int | None = None
    """In place of the recipe's, in pixels."""
    epochs: int | None = None
    """In place of the recipe's."""
    device: str = "auto"
    """Where to measure; auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """As in `fastdeit train`; of the rows, where they hold several."""

    def resolve(self, recipe: str) -> TrainConfig:
        """The recipe with these changes.

        Raises:
            UserError: there is no such recipe, or the changes do not fit to it.
        """
        check_recipe([recipe])
        parts: dict[str, dict[str, Any]] = {
            "data": {"batch_size": self.batch_size, "image_size": self.image_size},
            "model": {"model": self.model},
            "optim": {"epochs": self.epochs},
            "run": {"device": self.device, "precision": self.precision},
        }
        given = {
            part: {name: value for name, value in values.items() if value is not None}
            for part, values in parts.items()
        }
        # What a recipe cannot know is not needed here.
        return changed(fill_recipe(recipe, Path("nowhere")), **given)


def budget(
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")],
    /,
    gpus: Annotated[str, tyro.conf.arg(metavar="N[,N...]")] = "1",
    rate: float | None = None,
    rows_at: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None,
    within: str | None = None,
    changes: Changes = Changes(),
    steps: int | None = None,
    train: Path | None = None,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    teacher: Path | None = None,
    num_images: int | None = None,
    num_val_images: int | None = None,
    loader_rate: float | None = None,
    image_bytes: float = IMAGE_BYTES,
    machine: Literal["hopper", "v100"] = "hopper",
    nodes: MachineChanges = MachineChanges(),  # noqa: B008 (frozen)
) -> int:
    """Say how long a recipe takes: on one device from real steps, on several on paper.

    The step of one device comes from a given rate, from kept rows of `fastdeit bench`, or is
    measured now, at the share of the batch that it gets beside the others. How so many share the
    work is a model of data-parallel training, whose assumptions are listed. A table goes to stderr;
    the last line on stdout is one JSON object.

    Args:
        recipe: as in `fastdeit train RECIPE`.
        gpus: how many devices share a step; several numbers for a line each, such as 1,8,16.
        rate: images a second of one device, measured elsewhere; then nothing is run.
        rows_at: --out folder of `bench step`, `end-to-end`, `loaders` or `all`, or a file of rows.
        within: a limit such as 72h, 90m, 3d or 1d12h; the exit code is 1 if the run takes longer
            on each of --gpus.
        changes: what is changed in the recipe.
        steps: timed steps; 50 unless given. Give more with --train, whose loader has read ahead.
        train: decode this dataset instead of taking synthetic images that lie on the device.
        engine: what decodes it.
        teacher: checkpoint of the teacher of a distilled recipe; unless given, random weights of
            regnety_160, or of demo-teacher's model for demo.
        num_images: images of the training set; those of --train, else those of the recipe's dataset
            (ImageNet: 1,281,167).
        num_val_images: images of the validation set; unless given those of the recipe's dataset.
        loader_rate: samples a second of the loader on one core; unless given that of the rows.
        image_bytes: of an image on disk; a 512 px JPEG of quality 90 unless given.
        machine: what a node of several GPUs is taken for.
        nodes: figures in place of its own.

    Returns:
        0, or 1 if no number of GPUs is within the limit.
    """
    # ---- what is asked -------------------------------------------------------------------------
    within_hours = None if within is None else parse_hours(within)
    for name, value in (
        ("steps", steps),
        ("num_images", num_images),
        ("num_val_images", num_val_images),
    ):
        require(value is None or value >= 1, name, value, "must be at least 1", LEAVE_OUT)
    for name, figure, least in (
        ("rate", rate, 1e-3),
        ("loader_rate", loader_rate, 1e-3),
        ("image_bytes", image_bytes, 1.0),
    ):
        is_right = figure is None or least <= figure <= 1e9
        require(is_right, name, figure, f"must be from {least:g} to 1e9", LEAVE_OUT)
    if rate is not None or rows_at is not None:
        source = "a rate" if rows_at is None else "rows"
        for name, is_given in (
            ("steps", steps is not None),
            ("train", train is not None),
            ("teacher", teacher is not None),
            ("device", changes.device != "auto"),
            ("precision", changes.precision != "auto" and rows_at is None),
            ("rate", rate is not None and rows_at is not None),
        ):
            found = f"--{'rate' if rows_at is None else 'from'} too"
            require(not is_given, name, found, f"has no effect with {source}", "Leave one out.")
    require(
        engine == "auto" or train is not None,
        "engine",
        engine,
        "has no effect without a dataset to decode",
        "Pass --train DATASET too.",
    )
    config = changed(changes.resolve(recipe), data={"engine": engine})
    batch_size = config.data.batch_size
    numbers = _numbers_of(gpus, batch_size)
    require(
        teacher is None or config.distill.distillation != "none",
        "teacher",
        teacher,
        f"has no effect with {recipe}, which is not distilled",
        "Leave it out.",
    )
    nodes_as = nodes.applied(MACHINES[machine])
    for name in ("link_gb_s", "network_gb_s", "latency_us"):
        value = getattr(nodes, name)
        alone = "has no effect where one device trains by itself"
        require(value is None or numbers[-1] > 1, name, value, alone, "Pass --gpus 8, say.")

    # ---- how fast one is -----------------------------------------------------------------------
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.training.steps import count_work, is_taught, random_weights, usual_teacher

    about, stand_in = dataset_row(config.data.dataset), usual_teacher(recipe)
    if num_images is None:
        num_images = about.train if train is None else len(open_dataset(train))
    num_val_images = num_val_images or about.test
    steps_per_epoch = _count_steps(config, num_images)
    work = count_work(config, stand_in)
    train_flops, paces = work.train_flops, []
    if rate is not None:
        gpu = OneGPU(rates=((-(-batch_size // numbers[0]), rate),), what="as given")
    elif rows_at is not None:
        from fastdeit.tools.train.budget.one_gpu import from_rows

        gpu = from_rows(rows_at, recipe, config)
    else:
        paces = _measured_paces(config, recipe, numbers, steps or DEFAULT_STEPS, train, teacher)
        train_flops = paces[0].train_flops
        gpu = OneGPU(
            rates=tuple((pace.batch_size, pace.img_per_s) for pace in paces), what="measured now"
        )
    if loader_rate is not None:
        gpu = replace(gpu, loader_img_per_s=loader_rate, loader_what="as given")

    # ---- how long that makes the run -----------------------------------------------------------
    run = Run(
        step_images=batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=config.optim.epochs,
        gradient_bytes=work.gradient_bytes,
        backward_frac=work.backward_flops / train_flops,
        set_images=num_images,
        image_bytes=image_bytes,
        copies=config.data.repeats,
        eval_images=num_eval_passes(config) * num_val_images,
        eval_frac=work.eval_flops / train_flops,
    )
    made = [predict(gpu, run, nodes_as, number) for number in numbers]
    assumed = assumptions(gpu, run, nodes_as, made)
    if gpu.loader_img_per_s is not None:
        assumed.append(loader_line(gpu, run, nodes_as))
    elif train is None:
        assumed.append("the images arrive as fast as they are used; --train measures a loader")
    if is_taught(config):
        assumed.append(f"the teacher is {random_weights(stand_in) if teacher is None else teacher}")
    assumed += paper_line(config, run)
    for line in table(config, num_images, num_val_images, run, made, within):
        print(line, file=sys.stderr)
    for line in [*(pace.text for pace in paces), *(f"assumed: {line}" for line in assumed)]:
        print(line, file=sys.stderr)
    is_within = None if within_hours is None else min(p.hours for p in made) <= within_hours
    facts = {
        "recipe": recipe,
        "model": config.model.model,
        "image_size": config.data.image_size,
        "epochs": config.optim.epochs,
        "batch_size": batch_size,
        "num_images": num_images,
        "num_val_images": num_val_images,
        "steps_per_epoch": steps_per_epoch,
        "one_gpu": {**asdict(gpu), "measured": [pace.facts for pace in paces]},
        "gpus": [{**asdict(each), "hours": each.hours} for each in made],
        "machine": asdict(nodes_as),
        "within_hours": within_hours,
        "is_within": is_within,
        "paper": [{"hours": time.hours, "what": time.what} for time in paper_times(config)],
        "assumed": assumed,
    }
    print(json.dumps(facts))
    return 1 if is_within is False else 0


budget.check_args = check_recipe  # type: ignore[attr-defined]


def _numbers_of(text: str, batch_size: int) -> list[int]:
    """The numbers of --gpus, each once, rising."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(
            f"gpus must be whole numbers. Found: {text!r}. Pass --gpus 8 or --gpus 1,8,16."
        ) from None
    require(numbers[0] >= 1, "gpus", numbers[0], "must be at least 1", "Pass --gpus 8.")
    require(
        numbers[-1] <= batch_size,
        "gpus",
        numbers[-1],
        f"must be at most the images of a step ({batch_size})",
        "Pass fewer --gpus or a larger --batch-size.",
    )
    return numbers


def _count_steps(config: TrainConfig, num_images: int) -> int:
    """Steps of an epoch over so many images."""
    from fastdeit.pipelines.engines.synthetic import synthetic_index
    from fastdeit.pipelines.open import train_plan

    return train_plan(config.data, synthetic_index(num_images, 1), config.run).num_steps


def _measured_paces(
    config: TrainConfig,
    recipe: str,
    numbers: list[int],
    num_steps: int,
    train: Path | None,
    teacher: Path | None,
) -> list[Pace]:
    """Real steps at the smallest and at the largest share of a device, by rising share."""
    from fastdeit.machine.device import choose_compute
    from fastdeit.tools.train.budget.one_gpu import measure_pace, num_warm_up
    from fastdeit.training.steps import usual_teacher

    shares = sorted({-(-config.data.batch_size // number) for number in (numbers[0], numbers[-1])})
    warm_up = num_warm_up(choose_compute(config.run.device, config.run.precision).device)
    total = len(shares) * (warm_up + num_steps)
    with progress(None, "measuring", total, unit="step") as bar:
        return [
            measure_pace(
                config, share, num_steps, train, teacher, bar.update, usual_teacher(recipe)
            )
            for share in shares
        ]
