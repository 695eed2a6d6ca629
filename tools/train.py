"""`fastdeit train`: a recipe, changed by options, becomes a run in a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.config import TrainConfig
from fastdeit.recipes import NEED_TEACHER, RECIPES
from fastdeit.tools.progress import progress

if TYPE_CHECKING:
    from fastdeit.batch import BatchSource

    AnyRecipe = TrainConfig
else:
    # One subcommand a recipe, whose values are the defaults of the options.
    AnyRecipe = Annotated[
        tyro.extras.subcommand_type_from_defaults(
            {
                name: recipe(*[tyro.MISSING] * (4 if name in NEED_TEACHER else 3))
                for name, recipe in RECIPES.items()
            },
            {name: recipe.__doc__ for name, recipe in RECIPES.items()},
        ),
        tyro.conf.arg(name=""),
    ]

SHEET_IMAGES, SHEET_COLUMNS = 32, 8


def train(config: AnyRecipe) -> int:
    """Train a model by a recipe: `fastdeit train RECIPE --train ... --val ... --out ...`.

    The folder of the run gets config.json, environment.json, metrics.jsonl, augmented.png (what
    the model is shown) and, after each epoch, checkpoint.pt. The last line on stdout is one JSON
    object with the last evaluation.

    Args:
        config: the recipe and what is changed in it.

    Returns:
        0.
    """
    if config.dry_run:
        print(json.dumps(config.to_dict(), indent=1))
        return 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"training runs in one process so far. Found: WORLD_SIZE={os.environ['WORLD_SIZE']}. "
            "Start `fastdeit train` without torchrun."
        )
    # Heavy imports come after the line is parsed, so that help and errors are quick.
    from fastdeit.pipelines.index import open_dataset
    from fastdeit.pipelines.open import eval_plan, open_pipeline, train_plan
    from fastdeit.train import train as run_training

    data = config.data
    train_index, val_index = open_dataset(data.train), open_dataset(data.val)
    if train_index.class_ids != val_index.class_ids:
        raise UserError(
            f"training and validation set must have the same classes. Found: "
            f"{len(train_index.class_ids)} in {data.train}, {len(val_index.class_ids)} in "
            f"{data.val}, not all alike. Give two sets of one source."
        )
    plan = train_plan(data, train_index, config.run.seed)
    prepare_folder(config)
    with (
        open_pipeline(train_index, plan, data.engine, data.threads) as train_batches,
        open_pipeline(
            val_index,
            eval_plan(val_index, data.image_size, data.eval_crop_ratio, data.batch_size),
            data.engine,
            data.threads,
        ) as val_batches,
    ):
        describe_run(config, train_batches, len(train_index), train_index.class_names)
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
                    bar.write(
                        f"epoch {row['epoch'] + 1}/{config.optim.epochs}: top-1 {scores}",
                        file=sys.stderr,
                    )

            result = run_training(
                config, train_batches, val_batches, train_index.class_names, on_step
            )
    print(json.dumps({"checkpoint": str(result.checkpoint), **result.evaluation.to_dict()}))
    return 0


def check_args(args: list[str]) -> None:
    """Name the recipes where the first word is none of them."""
    if args and not args[0].startswith("-") and args[0] not in RECIPES:
        raise UserError(f"no such recipe. Found: {args[0]}. Known: {', '.join(RECIPES)}.")


train.check_args = check_args  # type: ignore[attr-defined]


def prepare_folder(config: TrainConfig) -> None:
    """Make the folder of the run; refuse to write over another run.

    Raises:
        UserError: there is a run already and --overwrite was not given, or the folder holds
            something else.
    """
    out = config.run.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / "config.json").is_file():
            raise UserError(
                f"the folder of a run must be new or empty. Found: {out} with other files. "
                "Give another --out."
            )
        if not config.run.overwrite:
            raise UserError(
                f"the folder of a run must be new or empty. Found: a run in {out}. "
                "Pass --overwrite to replace it, or another --out."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")


def describe_run(
    config: TrainConfig, batches: BatchSource, num_images: int, class_names: tuple[str, ...]
) -> None:
    """Write environment.json and say in one line what runs where."""
    import torch

    from fastdeit.device import choose_compute
    from fastdeit.environment import describe_environment
    from fastdeit.models import make_model, num_parameters
    from fastdeit.pipelines.open import choose_engine
    from fastdeit.pipelines.pipeline import Pipeline

    assert isinstance(batches, Pipeline)
    compute = choose_compute(config.run.device, config.run.precision)
    engine = choose_engine(batches.index, config.data.engine)
    with torch.device("meta"):  # counted without making it
        model = make_model(config.model, len(class_names), config.data.image_size)
    facts = {
        **describe_environment(),
        "command": ["fastdeit", *sys.argv[1:]] if Path(sys.argv[0]).name == "fastdeit" else None,
        "device": str(compute.device),
        "precision": compute.reason,
        "engine": engine.name,
        "engine_reason": engine.reason,
        "num_classes": len(class_names),
        "num_train_images": num_images,
        "num_params": num_parameters(model),
        "steps_per_epoch": len(batches),
    }
    (config.run.out / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(
        f"{config.model.model} on {compute.reason}; engine {engine.name} ({engine.reason}); "
        f"{num_images} images, {len(batches)} steps an epoch, "
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
