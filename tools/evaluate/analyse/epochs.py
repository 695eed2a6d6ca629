"""`fastdeit analyse epochs`: Figure 3, accuracy against epochs, from the logs of runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastdeit.text.tables import text_table
from fastdeit.tools.evaluate.analyse.figure3 import plot_epochs
from fastdeit.tools.evaluate.analyse.results import check_out, finish
from fastdeit.tools.evaluate.analyse.runs import RunCurves, read_runs

Runs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]


def epochs(runs: Runs = (), *, out: Path | None = None) -> int:
    """Show accuracy against epochs: each run, each head, raw weights and their moving average.

    Runs of other lengths are set against their lengths too, as in Figure 3 of the paper, whose
    distilled DeiT-B goes from 83.4% after 300 epochs to 84.2% after 1,000 (Table 5).

    Args:
        runs: folders written by `fastdeit train`, finished or not; named by their folders.
        out: folder for epochs.json and a plot, epochs.png.

    Returns:
        0.
    """
    check_out(out)
    found = read_runs(runs)
    print(_table(found), file=sys.stderr)
    facts = {"analysis": "epochs", "runs": {run.name: _facts(run) for run in found}}
    finish("epochs", facts, out, lambda: plot_epochs(found))
    return 0


def _facts(run: RunCurves) -> dict[str, Any]:
    """A run for JSON."""
    return {
        "path": str(run.run.folder),
        "model": run.model,
        "image_size": run.image_size,
        "num_epochs": run.num_epochs,
        "curves": [asdict(curve) for curve in run.curves],
        "paper": [
            {name: getattr(row, name) for name in ("name", "head", "epochs", "top1_pct")}
            for row in run.papers_rows
        ],
    }


def _table(runs: list[RunCurves]) -> str:
    """A line for each curve, with the paper's figure after as many epochs."""
    has_papers = any(run.papers_rows for run in runs)
    lines = [["run", "weights", "head", "epochs", "last top-1 %", "best top-1 %", "at epoch"]]
    lines[0] += ["paper %"] * has_papers
    for run in runs:
        for curve in run.curves:
            top1, at = curve.best
            done = str(curve.epochs[-1])
            done += "" if run.num_epochs is None else f" of {run.num_epochs}"
            papers = [
                f"{row.top1_pct:.1f}"
                for row in run.papers_rows
                if row.head == curve.head and row.epochs == run.num_epochs
            ]
            cells = [run.name, curve.weights, curve.head, done]
            cells += [f"{curve.top1_pct[-1]:.2f}", f"{top1:.2f}", str(at)]
            lines.append(cells + [*papers, "n/a"][:has_papers])
    return text_table(lines, "lllr")
