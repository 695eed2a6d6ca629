"""The folder of a run, from the first look at it to the result that is read out of it."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdeit import UserError
from fastdeit.config import TrainConfig
from fastdeit.errors import Stopped
from fastdeit.files import LOCK, FolderLock, replace_file
from fastdeit.machine.launch import is_first_process
from fastdeit.machine.stopping import REQUEUE
from fastdeit.measured.run import CONFIG, ENVIRONMENT, EVALUATION, SHEET

if TYPE_CHECKING:
    from fastdeit.machine.distributed import World
    from fastdeit.pipelines.engines.pipeline import Pipeline
    from fastdeit.training.session import Session

SHEET_IMAGES, SHEET_COLUMNS = 32, 8


class RunFolder:
    """Holds the folder of a run: its lock, what describes the run, its result.

    Enter it before anything heavy is imported: a run that a signal stops at any moment leaves a
    file `requeue` there for the scheduler's script. Metrics, checkpoints and trace are written by
    the loop. Only the first process writes.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config, self.out = config, config.run.out
        self._lock = FolderLock(self.out)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with ExitStack() as stack:
            stack.callback(self._lock.let_go)
            if isinstance(error, Stopped) and is_first_process():
                replace_file(self.out / REQUEUE, f"{error}\n".encode())

    def claim(self, world: World) -> None:
        """Keep others out, and refuse a folder that must not be written to; change nothing.

        Raises:
            UserError: another run writes there; a finished epoch of another run is there and
                --overwrite was not given; the folder holds something else, or the teacher.
        """
        if world.is_main:
            self._lock.take()
        if self.out.exists():
            _check(self._config)

    def begin(self, session: Session, batches: Pipeline) -> None:
        """Empty the folder of what another run left there, and write what describes the run."""
        session.world.barrier()  # all have looked at the folder before the first one changes it
        if not session.world.is_main:
            return
        config, out = self._config, self.out
        out.mkdir(parents=True, exist_ok=True)
        self._lock.take()
        (out / REQUEUE).unlink(missing_ok=True)
        for file in out.iterdir():
            if config.run.resume == "never" and file.name != LOCK:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        self._write(CONFIG, config.to_dict())
        self._write(ENVIRONMENT, _describe(config, session, batches))
        if session.position.step == 0:
            _draw_augmentation(config, batches, out / SHEET)

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        replace_file(self.out / name, (json.dumps(facts, indent=1) + "\n").encode())

    def result(self) -> dict[str, Any]:
        """The last evaluation, from the metrics."""
        from fastdeit.checkpoints.store import CHECKPOINT
        from fastdeit.training.telemetry import METRICS

        rows = map(json.loads, (self.out / METRICS).read_text("utf-8").splitlines())
        last = {row["kind"]: row for row in rows}
        facts = {
            "checkpoint": str(self.out / CHECKPOINT),
            "num_images": last["eval"]["num_images"],
            "heads": last["eval"]["heads"],
        }
        if "eval_ema" in last:
            facts["ema_heads"] = last["eval_ema"]["heads"]
        return facts


def _check(config: TrainConfig) -> None:
    from fastdeit.checkpoints.store import is_checkpoint_file
    from fastdeit.measured.trace import TRACE
    from fastdeit.training.telemetry import TELEMETRY_FILES

    # What a run and its evaluation write into their folder, beside checkpoints.
    own = {CONFIG, ENVIRONMENT, EVALUATION, SHEET, TRACE, REQUEUE, LOCK}
    out = config.run.out
    if not out.is_dir():
        raise UserError(f"out must be a folder. Found: the file {out}. Give another --out.")
    files = list(out.iterdir())
    for file in files:
        if file.name not in own | TELEMETRY_FILES and not is_checkpoint_file(file.name):
            raise UserError(
                f"the folder of a run must be new, empty or another run. Found: {file}. "
                "Give another --out."
            )
    for what, path in (("teacher", config.distill.teacher), ("init_from", config.init_from)):
        if path is not None and out.resolve() in path.resolve().parents:
            raise UserError(
                f"{what} must not lie in the folder of the run. Found: {path}. Give another --out."
            )
    # A run that goes on is checked where its checkpoint is read, in `make_session`.
    may_stay = config.run.overwrite or config.run.resume == "auto"
    if any(file.suffix == ".pt" for file in files) and not may_stay:
        raise UserError(
            f"the folder of a run must be new or empty. Found: a run in {out}. "
            "Pass --resume auto to go on, --overwrite to replace it, or another --out."
        )


def _describe(config: TrainConfig, session: Session, batches: Pipeline) -> dict[str, Any]:
    """What the run runs on; said in one line, too."""
    from fastdeit.measured.environment import describe_environment
    from fastdeit.models import num_parameters
    from fastdeit.pipelines.open import choose_engine

    compute, index = session.compute, batches.index
    engine = choose_engine(index, config.data.engine)
    print(
        f"{config.model.model} on {compute.reason}; engine {engine.name} ({engine.reason}); "
        f"{len(index)} images, {len(batches)} steps an epoch, "
        f"peak learning rate {config.optim.lr(config.data.batch_size):.3g}",
        file=sys.stderr,
    )
    return {
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


def _draw_augmentation(config: TrainConfig, batches: Pipeline, path: Path) -> None:
    """Draw the first batch as the model will see it; the position is kept."""
    from fastdeit.augment import augment
    from fastdeit.tools.data.contact_sheet import contact_sheet, denormalise

    position = batches.state_dict()
    batch = next(iter(batches))
    batches.load_state_dict(position)
    shown = augment(batch, config.augment, config.run.seed)
    names = [batches.index.class_names[int(label)].split(",")[0] for label in shown.targets.labels]
    images = list(denormalise(shown.images[:SHEET_IMAGES]))
    contact_sheet(images, names[:SHEET_IMAGES], SHEET_COLUMNS).save(path)
