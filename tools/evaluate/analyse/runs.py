"""What runs left on disk: accuracy after each epoch, of each head, raw and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdeit.errors import UserError
from fastdeit.tools.evaluate.analyse.voters import short_names
from fastdeit.tools.report.inputs import (
    Json,
    check_numbers,
    check_scores,
    drop_superseded,
    load_jsonl,
    load_run,
)
from fastdeit.training.telemetry import METRICS

WEIGHTS = {"eval": "raw", "eval_ema": "ema"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The top-1 of a head of a run."""

    run: str
    """The run's name."""
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
    folder: Path
    model: str | None
    """timm's name, if config.json says it."""
    is_papers_model: bool
    """Whether it is as timm builds it, and has ImageNet's 1,000 classes."""
    image_size: int | None
    """Side of the images in pixels."""
    num_epochs: int | None
    """How many it was to have, if config.json says it."""
    curves: tuple[Curve, ...]
    """Raw weights first, heads in the order of the log."""

    @property
    def is_done(self) -> bool:
        """Whether it has come to its last epoch."""
        return self.num_epochs == self.curves[0].epochs[-1]


def read_runs(folders: Sequence[Path]) -> list[RunCurves]:
    """Read runs, each named by its folder.

    Raises:
        UserError: there is none, or one has no metrics, no evaluation or damaged ones.
    """
    if not folders:
        raise UserError("analyse needs at least one RUN. Found: none. Pass a folder of a run.")
    unique = list(dict.fromkeys(folders))
    return [read_run(each, name) for each, name in zip(unique, short_names(unique), strict=True)]


def read_run(folder: Path, name: str) -> RunCurves:
    """Read one; see `read_runs`."""
    run = load_run(folder)
    path = folder / METRICS
    by_kind: dict[str, list[Json]] = {kind: [] for kind in WEIGHTS}
    for place, row in load_jsonl(path)[0]:
        if row["kind"] in WEIGHTS:
            check_numbers(row, ("step", "epoch"), place, required=("step", "epoch"))
            check_scores(row, place)
            by_kind[row["kind"]].append(row)
    if not by_kind["eval"]:
        raise UserError(
            f"RUN must hold an evaluation. Found: none in {path}. "
            "Let the run come to the end of an epoch, or leave it out."
        )
    curves = [
        curve
        for kind, rows in by_kind.items()
        for curve in curves_of(drop_superseded(rows), name, WEIGHTS[kind])
    ]
    config = run.config.get("model") or {}
    changes = [config.get(each) for each in ("patch_size", "embed_dim", "depth", "num_heads")]
    return RunCurves(
        name=name,
        folder=folder,
        model=config.get("model"),
        is_papers_model=changes == [None] * 4 and run.environment.get("num_classes") == 1000,
        image_size=(run.config.get("data") or {}).get("image_size"),
        num_epochs=(run.config.get("optim") or {}).get("epochs"),
        curves=tuple(curves),
    )


def curves_of(rows: list[Json], run: str, weights: str) -> list[Curve]:
    """A curve of each head that rows of one kind have."""
    curves = []
    for head in dict.fromkeys(name for row in rows for name in row["heads"]):
        points = [
            (int(row["epoch"]) + 1, float(row["heads"][head]["top1_pct"]))
            for row in rows
            if row["heads"].get(head, {}).get("top1_pct") is not None
        ]
        if points:
            epochs, top1 = zip(*points, strict=True)
            curves.append(Curve(run=run, weights=weights, head=head, epochs=epochs, top1_pct=top1))
    return curves
