"""Accuracy of runs after each epoch, of each head, raw and averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdeit.errors import UserError
from fastdeit.measured.run import Run, load_run
from fastdeit.paper.published import Published, published
from fastdeit.tools.evaluate.analyse.results import need_one
from fastdeit.tools.evaluate.analyse.voters import short_names
from fastdeit.training.telemetry import METRICS

WEIGHTS = {"eval": "raw", "eval_ema": "ema"}
"""What a kind of lines is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The top-1 of a head of a run."""

    weights: str
    """raw or ema."""
    head: str
    """class, dist or joint."""
    epochs: tuple[int, ...]
    """How many epochs were done."""
    top1_pct: tuple[float, ...]
    """Accuracy then, in percent."""

    @property
    def best(self) -> tuple[float, int]:
        """(the highest accuracy, after how many epochs it was first reached)."""
        top1 = max(self.top1_pct)
        return top1, self.epochs[self.top1_pct.index(top1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCurves:
    """A run."""

    name: str
    """Its folder's."""
    run: Run
    curves: tuple[Curve, ...]
    """Raw weights first, heads in the order of the log."""

    @property
    def model(self) -> Any:
        """The name of timm's; this and what follows is None where config.json does not say it."""
        return self.run.option("model", "model")

    @property
    def image_size(self) -> Any:
        """Side of the images in pixels."""
        return self.run.option("data", "image_size")

    @property
    def num_epochs(self) -> Any:
        """How many it was to have."""
        return self.run.option("optim", "epochs")

    @property
    def is_done(self) -> bool:
        """Whether it has come to its last epoch."""
        return bool(self.num_epochs == self.curves[0].epochs[-1])

    @property
    def papers_rows(self) -> list[Published]:
        """The paper's rows of its model that say how long it was trained.

        None for a model that is not as timm builds it, or has not ImageNet's 1,000 classes.
        """
        is_papers = not self.run.shape and self.run.environment.get("num_classes") == 1000
        if not is_papers or self.model is None or self.image_size is None:
            return []
        return [row for row in published(self.model, self.image_size) if row.epochs is not None]


def read_runs(folders: Sequence[Path]) -> list[RunCurves]:
    """Read runs, each named by its folder.

    Raises:
        UserError: there is none, or one has no metrics, no evaluation or damaged ones.
    """
    need_one(folders, "RUN", "a folder of a run")
    unique = list(dict.fromkeys(folders))
    return [_read(each, name) for each, name in zip(unique, short_names(unique), strict=True)]


def _read(folder: Path, name: str) -> RunCurves:
    """Read one; see `read_runs`."""
    run = load_run(folder, ("train", *WEIGHTS), in_evals=("step", "epoch"))
    if not run.evals:
        raise UserError(
            f"RUN must hold an evaluation. Found: none in {folder / METRICS}. "
            "Let the run come to the end of an epoch, or leave it out."
        )
    return RunCurves(name=name, run=run, curves=tuple(_curves(run)))


def _curves(run: Run) -> Iterator[Curve]:
    """A curve of each head, of the weights and of their average."""
    for kind, weights in WEIGHTS.items():
        rows = run.rows[kind]
        for head in dict.fromkeys(name for row in rows for name in row["heads"]):
            points = [
                (int(row["epoch"]) + 1, float(row["heads"][head]["top1_pct"]))
                for row in rows
                if row["heads"].get(head, {}).get("top1_pct") is not None
            ]
            if points:
                epochs, top1 = zip(*points, strict=True)
                yield Curve(weights=weights, head=head, epochs=epochs, top1_pct=top1)
