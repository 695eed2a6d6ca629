"""`fastdeit train`: a recipe, changed by options, becomes a run in a folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastdeit.config import TrainConfig
from fastdeit.machine.launch import local_rank
from fastdeit.machine.stopping import stop_at_once
from fastdeit.recipes import RECIPES, fill_recipe
from fastdeit.text.progress import progress, progress_text
from fastdeit.tools.train.recipe_list import check_recipe, help_of
from fastdeit.tools.train.run_folder import RunFolder

if TYPE_CHECKING:
    from fastdeit.machine.distributed import World
    from fastdeit.pipelines.datasets.index import DatasetIndex
    from fastdeit.pipelines.plan.order import Plan
    from fastdeit.training.session import Session

    AnyRecipe = TrainConfig
    PlannedSet = tuple[DatasetIndex, Plan]
else:
    # One subcommand a recipe, whose values are the defaults of the options.
    AnyRecipe = Annotated[
        tyro.extras.subcommand_type_from_defaults(
            {name: fill_recipe(name, tyro.MISSING) for name in RECIPES},
            {name: help_of(name) for name in RECIPES},
        ),
        tyro.conf.arg(name=""),
    ]


def train(config: AnyRecipe) -> int:
    """Train a model by a recipe: `fastdeit train RECIPE --train ... --val ... --out ...`.

    `fastdeit train --list` shows the recipes, with the accuracies that the papers report. Several
    GPUs: torchrun --nproc-per-node=8 --no-python fastdeit train RECIPE ...

    The folder of the run gets config.json, environment.json, metrics.jsonl, augmented.png (what
    the model is shown), checkpoint.pt, which is the newest, those before it, and best.pt. Ctrl-C,
    SIGTERM and SIGUSR1 save first; --resume auto goes on. A file `requeue` is there after such a
    stop. The last line on stdout is one JSON object with the last evaluation.

    Args:
        config: the recipe and what is changed in it.

    Returns:
        0.
    """
    if config.dry_run:
        from fastdeit.tools.train.dry_run import dry_run

        return dry_run(config)
    with ExitStack() as stack:
        run = stack.enter_context(RunFolder(config))
        stack.enter_context(stop_at_once())
        # Heavy imports come after the line is parsed, so that help and errors are quick.
        from fastdeit.machine.device import choose_compute
        from fastdeit.machine.distributed import joined, say
        from fastdeit.pipelines.open import open_pipeline, pipeline_options
        from fastdeit.pipelines.teacher_labels import LabelStore
        from fastdeit.training.loop import train as run_training
        from fastdeit.training.session import make_session
        from fastdeit.training.telemetry import check_telemetry

        # ---- what is there -------------------------------------------------------------------
        epochs, engine = config.optim.epochs, config.data.engine
        compute = choose_compute(config.run.device, config.run.precision, local_rank())
        world = stack.enter_context(joined(compute, config.run.timeout_minutes))
        train_set, val_set = open_sets(config, world)
        check_telemetry(config.run)
        run.claim(world)
        session = make_session(config, train_set[0].classes, compute, world)
        train_set, val_set = sets_of_run(session, train_set, val_set)
        if config.distill.teacher_labels is not None:
            answers = LabelStore(config, train_set[1], train_set[0])
            if world.is_main and answers.note:
                say(f"{config.distill.teacher_labels}: {answers.note}")
            session = dataclasses.replace(session, answers=answers, teacher_model=answers.model)
        session = weigh_session(config, session, train_set[0])
        if session.position.epoch >= epochs:
            if world.is_main:
                say(f"the run in {run.out} has ended: all {epochs} epochs are done")
                print(json.dumps(run.result()))
            return 0
        options = pipeline_options(config.data, compute.device)
        train_batches = stack.enter_context(open_pipeline(*train_set, engine, options))
        val_batches = stack.enter_context(open_pipeline(*val_set, engine, options))

        # ---- the run -------------------------------------------------------------------------
        run.begin(session, train_batches)
        with show_progress(config, world, len(train_batches), session.position.step) as on_row:
            run_training(config, session, train_batches, val_batches, on_row)
        num_replaced = sum(
            batches.replacements.num_samples(world) for batches in (train_batches, val_batches)
        )
    if world.is_main:
        facts = run.result()
        if num_replaced:
            facts["images_replaced"] = num_replaced
        print(json.dumps(facts))
    return 0


train.check_args = check_recipe  # type: ignore[attr-defined]


def complete_args(args: list[str]) -> list[str]:
    """The arguments with the teacher that a distilled recipe need not have beside its labels."""
    given = {arg.split("=")[0].replace("_", "-") for arg in args}
    if "--teacher-labels" in given and "--teacher" not in given:
        return [*args, "--teacher", "None"]
    return args


train.complete_args = complete_args  # type: ignore[attr-defined]


def open_sets(config: TrainConfig, world: World) -> tuple[PlannedSet, PlannedSet]:
    """Open training and validation set, and plan this process's share of them.

    The validation set has the class numbers of the training set.
    """
    from fastdeit.checkpoints.classes import require_classes
    from fastdeit.machine.distributed import say
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.open import eval_plan, train_plan

    data, own = config.data, (world.rank, world.size)
    train_index, val_index = open_dataset(data.train), open_dataset(data.val)
    located = require_classes(
        val_index.classes,
        train_index.classes,
        "training and validation set must have the same classes",
        (str(data.val), str(data.train)),
        "Give two sets of one source.",
    )
    note = located.explain(str(data.train))
    val_index = val_index.renumbered(train_index.classes, located)
    if world.is_main:
        if note:
            say(f"{data.val}: {note}")
        for index in {data.train: train_index, data.val: val_index}.values():
            say_empty(index)
    plan = train_plan(data, train_index, config.run, *own)
    val_plan = eval_plan(
        val_index, data.image_size, data.eval_crop_ratio, data.batch_size, data.interpolation, *own
    )
    return (train_index, plan), (val_index, val_plan)


def say_empty(index: DatasetIndex) -> None:
    """Say which classes of a set no image has, in one line, if there are any."""
    from fastdeit.machine.distributed import say
    from fastdeit.pipelines.datasets.index import empty_classes

    what = empty_classes(index.labels, index.class_names)
    if what is not None:
        say(f"{index.path}: {what}")


def sets_of_run(
    session: Session, train_set: PlannedSet, val_set: PlannedSet
) -> tuple[PlannedSet, PlannedSet]:
    """Training and validation set with the class numbers of the session, if a run goes on."""
    from fastdeit.checkpoints.classes import locate
    from fastdeit.machine.distributed import say

    located = locate(train_set[0].classes, session.classes)
    assert located is not None  # or there were no session
    note = located.explain("the run")
    if note and session.world.is_main:
        say(f"{train_set[0].path}: {note}")
    numbered = (each.renumbered(session.classes, located) for each in (train_set[0], val_set[0]))
    return (next(numbered), train_set[1]), (next(numbered), val_set[1])


def weigh_session(config: TrainConfig, session: Session, index: DatasetIndex) -> Session:
    """The session with the weights of the classes of its training set, if they are asked for."""
    from fastdeit.machine.distributed import say
    from fastdeit.training.losses import weigh_classes

    kind, sampling = config.optim.class_weights, config.data.sampling
    if kind == "none":
        return session
    if sampling != "natural" and session.world.is_main:
        say(f"classes are evened out twice: by --sampling {sampling} and --class-weights {kind}")
    weights = weigh_classes(index.labels, len(session.classes), kind)
    return dataclasses.replace(session, class_weights=weights.to(session.compute.device))


@contextmanager
def show_progress(
    config: TrainConfig, world: World, steps_per_epoch: int, first_step: int
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar that rows of the metrics move; on a terminal, of the first process only."""
    num_steps = config.optim.epochs * steps_per_epoch
    with progress(None, "training", num_steps, "step", first_step, is_shown=world.is_main) as bar:

        def on_row(row: dict[str, Any]) -> None:
            if row["kind"] == "train":
                bar.set_postfix_str(progress_text(row, config.run.budget_hours), refresh=False)
            bar.update(row["step"] - bar.n)
            if row["kind"] == "train":
                return
            scores = ", ".join(
                f"{name} {score['top1_pct']:.1f}%" for name, score in row["heads"].items()
            )
            of = " of the average" if row["kind"] == "eval_ema" else ""
            epoch = f"epoch {row['epoch'] + 1}/{config.optim.epochs}"
            bar.write(f"{epoch}: top-1{of} {scores}", file=sys.stderr)

        yield on_row
