"""`fastdeit train`: a recipe, changed by options, becomes a run in a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.config import TrainConfig
from fastdeit.files import replace_file
from fastdeit.recipes import RECIPES
from fastdeit.tools.progress import progress
from fastdeit.tools.recipe_list import check_recipe, fill_recipe, help_of

if TYPE_CHECKING:
    from fastdeit.batch import BatchSource
    from fastdeit.pipelines.pipeline import Pipeline
    from fastdeit.train import Session

    AnyRecipe = TrainConfig
else:
    # One subcommand a recipe, whose values are the defaults of the options.
    AnyRecipe = Annotated[
        tyro.extras.subcommand_type_from_defaults(
            {name: fill_recipe(name, tyro.MISSING) for name in RECIPES},
            {name: help_of(name) for name in RECIPES},
        ),
        tyro.conf.arg(name=""),
    ]

SHEET_IMAGES, SHEET_COLUMNS = 32, 8
RUN_FILES = frozenset(
    (
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "augmented.png",
        "checkpoint.pt",
        ".checkpoint.pt.partial",
        "evaluation.json",
    )
)
"""What a run and its evaluation write into their folder."""


def train(config: AnyRecipe) -> int:
    """Train a model by a recipe: `fastdeit train RECIPE --train ... --val ... --out ...`.

    `fastdeit train --list` shows the recipes, with the accuracies that the papers report.

    The folder of the run gets config.json, environment.json, metrics.jsonl, augmented.png (what
    the model is shown) and, after each epoch, checkpoint.pt. The last line on stdout is one JSON
    object with the last evaluation.

    Args:
        config: the recipe and what is changed in it.

    Returns:
        0.
    """
    if config.dry_run:
        from fastdeit.tools.dry_run import dry_run

        return dry_run(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"training runs in one process so far. Found: WORLD_SIZE={os.environ['WORLD_SIZE']}. "
            "Start `fastdeit train` without torchrun."
        )
    # Heavy imports come after the line is parsed, so that help and errors are quick.
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.open import eval_plan, open_pipeline, pipeline_options, train_plan
    from fastdeit.train import make_session
    from fastdeit.train import train as run_training

    data = config.data
    train_index, val_index = open_dataset(data.train), open_dataset(data.val)
    if train_index.class_ids != val_index.class_ids:
        raise UserError(
            f"training and validation set must have the same classes. Found: "
            f"{len(train_index.class_ids)} in {data.train}, {len(val_index.class_ids)} in "
            f"{data.val}, not all alike. Give two sets of one source."
        )
    plan = train_plan(data, train_index, config.run)
    check_folder(config)
    session = make_session(config, train_index.class_names)
    options = pipeline_options(data, session.compute.device)
    with (
        open_pipeline(train_index, plan, data.engine, options) as train_batches,
        open_pipeline(
            val_index,
            eval_plan(
                val_index,
                data.image_size,
                data.eval_crop_ratio,
                data.batch_size,
                data.interpolation,
            ),
            data.engine,
            options,
        ) as val_batches,
    ):
        make_folder(config)
        describe_run(config, session, train_batches)
        show_augmentation(config, train_batches, train_index.class_names)
        num_steps = config.optim.epochs * len(train_batches)
        with progress(None, "training", num_steps, unit="step") as bar:

            def on_step(row: dict[str, Any]) -> None:
                bar.update(row["step"] - bar.n)
                if row["kind"] == "train":
                    bar.set_postfix_str(f"loss {row['loss']:.3f}, {row['img_per_s']:.0f} img/s")
                else:
                    scores = ", ".join(
                        f"{name} {score['top1_pct']:.1f}%" for name, score in row["heads"].items()
                    )
                    of = " of the average" if row["kind"] == "eval_ema" else ""
                    bar.write(
                        f"epoch {row['epoch'] + 1}/{config.optim.epochs}: top-1{of} {scores}",
                        file=sys.stderr,
                    )

            result = run_training(
                config, session, train_batches, val_batches, train_index.class_names, on_step
            )
            replaced = [*train_batches.replacements.by_sample, *val_batches.replacements.by_sample]
    facts = {"checkpoint": str(result.checkpoint), **result.evaluation.to_dict()}
    if result.ema_evaluation is not None:
        facts["ema_heads"] = result.ema_evaluation.to_dict()["heads"]
    if replaced:
        facts["images_replaced"] = len(replaced)
    print(json.dumps(facts))
    return 0


train.check_args = check_recipe  # type: ignore[attr-defined]


def check_folder(config: TrainConfig) -> None:
    """Refuse a folder that must not be written to; change nothing.

    Raises:
        UserError: a finished epoch of another run is there and --overwrite was not given, the
            folder holds something else, or the teacher is in it.
    """
    out = config.run.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    foreign = [f for f in out.iterdir() if f.name not in RUN_FILES] if out.is_dir() else [out]
    if foreign:
        raise UserError(
            f"the folder of a run must be new, empty or another run. Found: {foreign[0]}. "
            "Give another --out."
        )
    teacher = config.distill.teacher
    if teacher is not None and out.resolve() in teacher.resolve().parents:
        raise UserError(
            f"the teacher must not lie in the folder of the run. Found: {teacher}. "
            "Give another --out."
        )
    # A run that goes on is checked where its checkpoint is read, in `make_session`.
    may_stay = config.run.overwrite or config.run.resume == "auto"
    if (out / "checkpoint.pt").exists() and not may_stay:
        raise UserError(
            f"the folder of a run must be new or empty. Found: a run in {out}. "
            "Pass --resume auto to go on, --overwrite to replace it, or another --out."
        )


def make_folder(config: TrainConfig) -> None:
    """Make the folder of the run, without what an earlier one left there."""
    out = config.run.out
    out.mkdir(parents=True, exist_ok=True)
    for file in out.iterdir():
        if config.run.resume == "never":
            file.unlink()
    replace_file(out / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())


def describe_run(config: TrainConfig, session: Session, batches: Pipeline) -> None:
    """Write environment.json and say in one line what runs where."""
    from fastdeit.environment import describe_environment
    from fastdeit.models import num_parameters
    from fastdeit.pipelines.open import choose_engine

    compute, index = session.compute, batches.index
    engine = choose_engine(index, config.data.engine)
    facts = {
        **describe_environment(),
        "command": ["fastdeit", *sys.argv[1:]] if Path(sys.argv[0]).name == "fastdeit" else None,
        "device": str(compute.device),
        "precision": compute.reason,
        "engine": engine.name,
        "engine_reason": engine.reason,
        "num_classes": len(index.class_names),
        "num_train_images": len(index),
        "num_params": num_parameters(session.model),
        "steps_per_epoch": len(batches),
    }
    replace_file(config.run.out / "environment.json", (json.dumps(facts, indent=1) + "\n").encode())
    print(
        f"{config.model.model} on {compute.reason}; engine {engine.name} ({engine.reason}); "
        f"{len(index)} images, {len(batches)} steps an epoch, "
        f"peak learning rate {config.optim.lr(config.data.batch_size):.3g}",
        file=sys.stderr,
    )


def show_augmentation(
    config: TrainConfig, batches: BatchSource, class_names: tuple[str, ...]
) -> None:
    """Draw the first batch as the model will see it into augmented.png; the position is kept."""
    from fastdeit.augment import apply_augmentation, sample_augmentation
    from fastdeit.pictures import contact_sheet, denormalise

    position = batches.state_dict()
    batch = next(iter(batches))
    batches.load_state_dict(position)
    augmentation = sample_augmentation(config.augment, batch, config.run.seed)
    images, targets = apply_augmentation(batch, augmentation)
    names = [class_names[int(label)].split(",")[0] for label in targets.labels]
    sheet = contact_sheet(
        list(denormalise(images[:SHEET_IMAGES])), names[:SHEET_IMAGES], SHEET_COLUMNS
    )
    sheet.save(config.run.out / "augmented.png")
