"""`fastdeit teach`: what a teacher says of every image that a run will show, written once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastdeit.config import TrainConfig
from fastdeit.errors import Stopped, require
from fastdeit.files import LOCK, FolderLock
from fastdeit.machine.launch import local_rank
from fastdeit.machine.stopping import stop_at_once
from fastdeit.text.figures import rounded
from fastdeit.text.progress import progress
from fastdeit.tools.train.command import AnyRecipe, say_empty
from fastdeit.tools.train.recipe_list import check_recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastdeit.machine.device import Compute
    from fastdeit.pipelines.engines.pipeline import Pipeline
    from fastdeit.training.teacher import Teacher


def teach(config: AnyRecipe) -> int:
    """Ask the teacher once, for any number of students: `fastdeit teach RECIPE ... --out LABELS`.

    Takes the options of the training that will read it, and the teacher. Its decisions (2 bytes an
    image) or, with soft distillation, its likeliest classes (4 bytes for each of --teacher-top-k)
    go to --out; then `fastdeit train RECIPE ... --teacher-labels LABELS` needs no teacher, and ends
    in the same weights. A store that was stopped goes on after its last whole epoch when the same
    command is given again. Several GPUs: torchrun --nproc-per-node=8 --no-python fastdeit teach ...

    Args:
        config: the recipe and what is changed in it; --val may be left out, --epochs are written.

    Returns:
        0.
    """
    distill, out = config.distill, config.run.out
    require(
        distill.teacher is not None,
        "teacher",
        distill.teacher,
        "must be given, for it is asked",
        "Pass --distillation hard --teacher RUN/checkpoint.pt.",
    )
    require(
        not config.run.overwrite,
        "overwrite",
        True,
        "has no effect in teach, which never replaces a store",
        "Leave it out, and give another --out.",
    )
    if config.dry_run:
        from fastdeit.tools.train.dry_run import dry_run

        return dry_run(config)
    with ExitStack() as stack:
        stack.enter_context(stop_at_once())
        import numpy as np

        from fastdeit.machine.attention import choose_attention
        from fastdeit.machine.device import choose_compute
        from fastdeit.machine.distributed import joined, say
        from fastdeit.machine.torch_compile import begin_compiling
        from fastdeit.pipelines.datasets.index import open_dataset
        from fastdeit.pipelines.open import open_pipeline, pipeline_options, train_plan
        from fastdeit.pipelines.teacher_labels import LabelWriter, row_type
        from fastdeit.training.teacher import load_teacher

        compute = choose_compute(config.run.device, config.run.precision, local_rank())
        world = stack.enter_context(joined(compute, config.run.timeout_minutes))
        stack.enter_context(world.explain_loss("Start it again: it goes on."))
        index = open_dataset(config.data.train)
        if world.is_main:
            say_empty(index)
        plan = train_plan(config.data, index, config.run, world.rank, world.size)
        teacher = load_teacher(config, index.classes, compute, world.is_main)
        assert teacher is not None
        compute = choose_attention(config.run.attention, teacher, compute)
        compiled = begin_compiling(config, compute)
        about = describe(teacher, compute)
        lock = FolderLock(out)
        stack.callback(lock.let_go)
        writer = LabelWriter(out, config, plan, index, about)
        if world.is_main:
            lock.take()  # now that the folder is known to be a store's
        epochs = config.optim.epochs
        missing = [number for number in range(epochs) if not writer.has(number)]
        world.barrier()  # all have looked at the folder before the first one writes
        if len(missing) < epochs and world.is_main:
            say(f"{out}: {epochs - len(missing)} of {epochs} epochs are there")
        options = pipeline_options(config.data, compute.device)
        batches = stack.enter_context(open_pipeline(index, plan, config.data.engine, options))
        asked = compiled(teacher)
        kind = row_type(config.distill, len(index.class_names))
        num_steps = len(missing) * len(batches)
        bar = stack.enter_context(
            progress(None, "teaching", num_steps, "step", is_shown=world.is_main)
        )
        for epoch in missing:
            batches.load_state_dict({"epoch": epoch, "step": 0})
            try:
                mine = ask(config, asked, batches, compute, world.rank, kind, bar.update)
            except Stopped as stopped:
                where = f"epoch {epoch + 1}, which is not kept"
                raise Stopped(stopped.signal_number, where, "the same command") from None
            shares = world.gather(mine)
            if world.is_main:
                # A step's rows lie one process after another.
                steps = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
                writer.write(epoch, np.concatenate(steps))
    if world.is_main:
        num_answers = epochs * plan.num_steps * plan.batch_size
        num_bytes = sum(file.stat().st_size for file in out.iterdir() if file.name != LOCK)
        said = (
            f"{out}: {num_answers:,} answers in {epochs} epochs, {rounded(num_bytes / 1e6, 3)} MB"
        )
        print(said, file=sys.stderr)
        facts = {"labels": str(out), "epochs": epochs, "answers": num_answers}
        print(json.dumps({**facts, "bytes": num_bytes, "teacher": about}))
    return 0


teach.check_args = check_recipe  # type: ignore[attr-defined]


def complete_args(args: list[str]) -> list[str]:
    """The arguments with a validation set, which is not read, if there are any."""
    is_given = any(arg.split("=")[0] == "--val" for arg in args)
    wants_help = {"-h", "--help"} & set(args)
    return args if is_given or not args or wants_help else [*args, "--val", "not-read"]


teach.complete_args = complete_args  # type: ignore[attr-defined]


def ask(
    config: TrainConfig,
    teacher: nn.Module,
    batches: Pipeline,
    compute: Compute,
    rank: int,
    kind: np.dtype[Any],
    on_step: Callable[[], object],
) -> list[NDArray[Any]]:
    """What the teacher says of this process's share of an epoch.

    Args:
        config: augmentation and kind of distillation.
        teacher: gives logits.
        batches: at the beginning of the epoch.
        compute: where it computes.
        rank: of this process.
        kind: of the rows, from `row_type`.
        on_step: called after each step.

    Returns:
        For each step (b,) rows.
    """
    import numpy as np
    import torch

    from fastdeit.augment import augmented
    from fastdeit.training.teacher import likeliest, soften

    mix_word = rank if config.run.compat == "upstream" else 0
    said: list[tuple[torch.Tensor, ...]] = []
    with torch.no_grad():
        for batch in augmented(batches, config.augment, config.run.seed, compute, mix_word):
            with compute.autocast():
                logits = teacher(batch.images)
            if config.distill.distillation == "hard":
                said.append((logits.argmax(1),))
            else:
                probs = soften(logits, config.distill)
                said.append(likeliest(probs, config.distill.teacher_top_k))
            on_step()
    rows = []
    for answers in said:  # read at the end, so that no step waits for the device
        parts = [part.cpu().numpy() for part in answers]
        row = np.empty(len(parts[0]), dtype=kind)
        if kind.names is None:
            row[:] = parts[0]
        else:
            row["classes"], row["probs"] = parts
        rows.append(row)
    return rows


def describe(teacher: Teacher, compute: Compute) -> dict[str, Any]:
    """What a teacher is: the checksum of its weights, for its path may change."""
    from fastdeit.checkpoints.checksum import content_checksum
    from fastdeit.models.flops import precision_of

    return {
        "model": teacher.name,
        "weights": content_checksum(dict(teacher.model.state_dict())),
        "image_size": teacher.image_size,
        "precision": precision_of(compute),
    }
