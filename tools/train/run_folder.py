"""The folder of a run: what may be in it, and what is written before the first step."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.augment import augment
from fastdeit.batch import BatchSource
from fastdeit.checkpoints.store import CHECKPOINT, is_checkpoint_file
from fastdeit.config import TrainConfig
from fastdeit.files import LOCK, replace_file
from fastdeit.machine.stopping import REQUEUE
from fastdeit.measured.environment import describe_environment
from fastdeit.measured.trace import TRACE
from fastdeit.models import num_parameters
from fastdeit.pipelines.engines.pipeline import Pipeline
from fastdeit.pipelines.open import choose_engine
from fastdeit.tools.data.contact_sheet import contact_sheet, denormalise
from fastdeit.training.session import Session
from fastdeit.training.telemetry import METRICS, TELEMETRY_FILES

SHEET_IMAGES, SHEET_COLUMNS = 32, 8
RUN_FILES = TELEMETRY_FILES | {
    "config.json",
    "environment.json",
    "augmented.png",
    "evaluation.json",
    TRACE,
    REQUEUE,
    LOCK,
}
"""What a run and its evaluation write into their folder, beside checkpoints."""


def check_folder(config: TrainConfig) -> None:
    """Refuse a folder that must not be written to; change nothing.

    Raises:
        UserError: a finished epoch of another run is there and --overwrite was not given, the
            folder holds something else, or the teacher is in it.
    """
    out = config.run.out
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"out must be a folder. Found: the file {out}. Give another --out.")
    foreign = [
        file
        for file in out.iterdir()
        if file.name not in RUN_FILES and not is_checkpoint_file(file.name)
    ]
    if foreign:
        raise UserError(
            f"the folder of a run must be new, empty or another run. Found: {foreign[0]}. "
            "Give another --out."
        )
    for what, path in (("teacher", config.distill.teacher), ("init_from", config.init_from)):
        if path is not None and out.resolve() in path.resolve().parents:
            raise UserError(
                f"{what} must not lie in the folder of the run. Found: {path}. Give another --out."
            )
    # A run that goes on is checked where its checkpoint is read, in `make_session`.
    may_stay = config.run.overwrite or config.run.resume == "auto"
    if any(file.suffix == ".pt" for file in out.iterdir()) and not may_stay:
        raise UserError(
            f"the folder of a run must be new or empty. Found: a run in {out}. "
            "Pass --resume auto to go on, --overwrite to replace it, or another --out."
        )


def prepare_folder(config: TrainConfig, session: Session, batches: Pipeline) -> None:
    """Empty the folder of what another run left there, and write what describes the run."""
    out = config.run.out
    (out / REQUEUE).unlink(missing_ok=True)
    for file in out.iterdir():
        if config.run.resume == "never" and file.name != LOCK:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    replace_file(out / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())
    describe_run(config, session, batches)
    if session.position.step == 0:
        show_augmentation(config, batches, batches.index.class_names)


def describe_run(config: TrainConfig, session: Session, batches: Pipeline) -> None:
    """Write environment.json and say in one line what runs where."""
    compute, index = session.compute, batches.index
    engine = choose_engine(index, config.data.engine)
    facts = {
        **describe_environment(),
        "command": ["fastdeit", *sys.argv[1:]] if Path(sys.argv[0]).name == "fastdeit" else None,
        "device": str(compute.device),
        "num_processes": session.world.size,
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
    position = batches.state_dict()
    batch = next(iter(batches))
    batches.load_state_dict(position)
    shown = augment(batch, config.augment, config.run.seed)
    names = [class_names[int(label)].split(",")[0] for label in shown.targets.labels]
    sheet = contact_sheet(
        list(denormalise(shown.images[:SHEET_IMAGES])), names[:SHEET_IMAGES], SHEET_COLUMNS
    )
    sheet.save(config.run.out / "augmented.png")


def last_result(out: Path) -> dict[str, Any]:
    """What the last line of a run that has ended said, from its metrics."""
    rows = [json.loads(line) for line in (out / METRICS).read_text("utf-8").splitlines()]
    last = {row["kind"]: row for row in rows}
    facts = {
        "checkpoint": str(out / CHECKPOINT),
        "num_images": last["eval"]["num_images"],
        "heads": last["eval"]["heads"],
    }
    if "eval_ema" in last:
        facts["ema_heads"] = last["eval_ema"]["heads"]
    return facts
