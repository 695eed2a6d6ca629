"""Where a run's metrics go: metrics.jsonl always, TensorBoard and Weights & Biases when asked for.

A row is a dict with `kind` (train, eval, eval_ema) and `step`, how many steps of the whole run are
done. In TensorBoard and W&B each of its numbers is a curve over the steps: `loss` of a train row is
`train/loss`, `heads.class.top1_pct` of an eval row `eval/class/top1_pct`.
"""

from __future__ import annotations

import importlib
import json
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastdeit.config import RunConfig
from fastdeit.errors import UserError, require
from fastdeit.files import naming

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_FOLDER = "wandb"
WANDB_ID = "wandb_id"
TELEMETRY_FILES = frozenset((METRICS, TENSORBOARD, WANDB_FOLDER, WANDB_ID))
"""What is written into the folder of a run; `tensorboard` and `wandb` are folders."""

_NOT_CURVES = frozenset(("kind", "epoch", "step", "num_images"))


class Metrics:
    """A context in which rows are written, by one process of a run.

    Nothing is opened before the block is entered.
    """

    def __init__(
        self, out: Path, run: RunConfig, config: dict[str, Any], first_step: int = 0
    ) -> None:
        """Say what goes where; the folder exists.

        `config` is shown beside the curves. With `first_step` 0 a run begins anew and drops the
        rows, curves and the W&B run of an earlier try in the folder. Otherwise rows are added:
        those of metrics.jsonl after that step must have been cut off by the caller; TensorBoard
        hides its own.
        """
        self._out, self._run, self._config, self._first_step = out, run, config, first_step
        self._open = ExitStack()

    def __enter__(self) -> Metrics:
        """Open what is written to; UserError if a package is missing, or W&B begins no run."""
        goes_on = self._first_step > 0
        with ExitStack() as opened:
            path = self._out / METRICS
            self._file = path.open("a" if goes_on else "w", encoding="utf-8")
            opened.callback(self._close_file)
            self._board = self._open_tensorboard() if self._run.tensorboard else None
            if self._board is not None:
                opened.callback(self._board.close)
            self._wandb = self._open_wandb(goes_on) if self._run.wandb is not None else None
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close everything; W&B is told whether the run failed."""
        with self._open:
            if self._wandb is not None:
                self._wandb.finish(exit_code=0 if kind is None else 1)

    def write(self, row: dict[str, Any]) -> None:
        """Write one row; it is in the files when this returns.

        Raises OSError if metrics.jsonl cannot be written, which may then end in half a row.
        """
        with naming(self._out / METRICS):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is None and self._wandb is None:
            return
        if self._board is not None:
            _draw(self._board, row)
            self._board.flush()
        if self._wandb is not None:
            self._wandb.log({**scalars_of(row), "step": row["step"]})

    def _close_file(self) -> None:
        """Close metrics.jsonl; what a full disk left in the buffer is tried once more."""
        with naming(self._out / METRICS):
            self._file.close()

    def _open_tensorboard(self) -> Any:
        """A SummaryWriter into OUT/tensorboard, without what an earlier try wrote."""
        folder = self._out / TENSORBOARD
        if self._first_step == 0 and folder.is_dir():
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        module = _import("torch.utils.tensorboard", "tensorboard", "SummaryWriter")
        # TensorBoard drops what it has of this step and later ones. Of this step's rows, that of
        # the training may be done and that of the evaluation not.
        writer = module.SummaryWriter(str(folder), purge_step=self._first_step or None)
        if self._first_step:
            for line in (self._out / METRICS).read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["step"] == self._first_step:
                    _draw(writer, row)
        # Four spaces make it a block of code in TensorBoard's Markdown.
        text = json.dumps(self._config, indent=1).replace("\n", "\n    ")
        writer.add_text("config", f"    {text}", self._first_step)
        return writer

    def _open_wandb(self, goes_on: bool) -> Any:
        """A W&B run, the same one when the run goes on."""
        wandb = _import("wandb", "wandb", "init")
        id_file = self._out / WANDB_ID
        if not goes_on or not id_file.exists():
            id_file.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
        try:
            run = wandb.init(
                project=self._run.wandb,
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                name=self._out.resolve().name,
                dir=str(self._out),
                config=self._config,
            )
        except wandb.Error as error:
            why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise UserError(
                f"wandb must begin a run. Found: {why}. Run `wandb login`, set WANDB_MODE=offline, "
                "or leave out --wandb."
            ) from error
        # W&B's own step only grows, and a run that goes on may begin before where it ended.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run


def _draw(board: Any, row: dict[str, Any]) -> None:
    for tag, value in scalars_of(row).items():
        board.add_scalar(tag, value, row["step"])


def check_telemetry(run: RunConfig) -> None:
    """Make sure that the packages are there, before a run writes anything.

    Raises UserError if one is missing, or the project of W&B has no name.
    """
    if run.tensorboard:
        _import("torch.utils.tensorboard", "tensorboard", "SummaryWriter")
    if run.wandb is not None:
        require(
            bool(run.wandb.strip()),
            "wandb",
            repr(run.wandb),
            "must be the name of a project",
            "Pass --wandb deit, say, or leave it out.",
        )
        _import("wandb", "wandb", "init")


def scalars_of(row: dict[str, Any]) -> dict[str, float]:
    """The curves of a row: the numbers in it by tag, nested names joined by slashes."""
    # `heads` is left out of the tags; None, texts and truth values are no numbers.
    curves: dict[str, float] = {}

    def collect(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                collect(prefix if name == "heads" else f"{prefix}/{name}", value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                curves[f"{prefix}/{name}"] = float(value)

    collect(row["kind"], {name: row[name] for name in row if name not in _NOT_CURVES})
    return curves


def _import(module: str, extra: str, attribute: str) -> Any:
    try:
        found = importlib.import_module(module)
        getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{extra} must be installed for --{extra}. Found: {' '.join(str(error).split())}. "
            f"Run: pip install 'fastdeit[{extra}]', or leave out --{extra}."
        ) from error
    return found
