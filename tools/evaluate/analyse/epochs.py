"""`fastdeit analyse epochs`: Figure 3, accuracy against epochs, from the logs of runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastdeit.paper.published import Published, published
from fastdeit.text.tables import text_table
from fastdeit.tools.evaluate.analyse.plots import epochs_plot
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
    rows = {run.name: papers_rows(run) for run in found}
    print(epochs_table(found, rows), file=sys.stderr)
    facts: dict[str, Any] = {
        "analysis": "epochs",
        "runs": {
            run.name: {
                "path": str(run.folder),
                "model": run.model,
                "image_size": run.image_size,
                "num_epochs": run.num_epochs,
                "curves": [
                    {k: v for k, v in asdict(curve).items() if k != "run"} for curve in run.curves
                ],
                "paper": [
                    {
                        "name": row.name,
                        "head": row.head,
                        "epochs": row.epochs,
                        "top1_pct": row.top1_pct,
                    }
                    for row in rows[run.name]
                ],
            }
            for run in found
        },
    }
    finish("epochs", facts, out, lambda: epochs_plot(found, rows))
    return 0


def papers_rows(run: RunCurves) -> list[Published]:
    """The paper's rows of a run's model that say how long it was trained."""
    if not run.is_papers_model or run.model is None or run.image_size is None:
        return []
    return [row for row in published(run.model, run.image_size) if row.epochs is not None]


def epochs_table(runs: list[RunCurves], rows: dict[str, list[Published]]) -> str:
    """A line for each curve, with the paper's figure after as many epochs."""
    has_papers = any(rows.values())
    lines = [["run", "weights", "head", "epochs", "last top-1 %", "best top-1 %", "at epoch"]]
    if has_papers:
        lines[0].append("paper %")
    for run in runs:
        for curve in run.curves:
            top1, at = curve.best
            done = str(curve.epochs[-1])
            if run.num_epochs is not None:
                done += f" of {run.num_epochs}"
            cells = [run.name, curve.weights, curve.head, done]
            cells += [f"{curve.top1_pct[-1]:.2f}", f"{top1:.2f}", str(at)]
            if has_papers:
                papers = [
                    f"{row.top1_pct:.1f}"
                    for row in rows[run.name]
                    if row.head == curve.head and row.epochs == run.num_epochs
                ]
                cells.append(papers[0] if papers else "n/a")
            lines.append(cells)
    return text_table(lines, "lllr")
