"""The table of an ablation: ours beside the paper's, at any time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdeit.files import replace_file
from fastdeit.paper.ablation import table8
from fastdeit.recipes.table8 import ROWS, Row
from fastdeit.text.tables import markdown_table
from fastdeit.tools.train.ablation.runs import FINETUNED, TABLE, State, pretraining

METRICS = "metrics.jsonl"
COLUMNS = ("row", "paper 224", "ours", "paper 384", "ours")


def facts_of(out: Path, state: State) -> dict[str, Any]:
    """Everything that the table says, for the program's last line.

    Args:
        out: folder of the ablation.
        state: what is known of it.
    """
    rows = []
    for name, row in ROWS.items():
        paper = table8()[row.paper]
        first, second = pretraining(name), name + FINETUNED
        rows.append(
            {
                "row": name,
                "ablation": row.paper,
                "pretrain": cell(out, state, first, row, paper.pretrain_224),
                "finetune": cell(out, state, second, Row(row.paper), paper.finetune_384),
            }
        )
    return {"out": str(out), "changed": state.changed, "rows": rows}


def cell(out: Path, state: State, run: str, row: Row, paper: float) -> dict[str, Any]:
    """The paper's accuracy in percent, ours, or how far the run is."""
    ours = None
    if run in state.finished:
        ours, status = top1_of(state.finished[run]["result"], row), "done"
        if ours is None:
            status = "no average"
    elif run in state.failed:
        status = "failed"
    else:
        status = progress_of(out / run)
    return {"run": run, "paper": paper, "ours": ours, "status": status}


def top1_of(result: dict[str, Any], row: Row) -> float | None:
    """The accuracy of a run's weights, both heads joined where it has two; None without them."""
    heads = result.get("heads" if row.weights == "raw" else "ema_heads")
    if not heads:
        return None
    return float((heads.get("joint") or heads["class"])["top1_pct"])


def progress_of(run: Path) -> str:
    """How far a run is that has not ended: not begun, or the epochs that are evaluated."""
    try:
        epochs = json.loads((run / "config.json").read_text("utf-8"))["optim"]["epochs"]
    except (OSError, ValueError, KeyError):
        return "not begun"
    done = 0
    try:
        lines = (run / METRICS).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # it is being written
            break
        if row["kind"] == "eval":
            done = row["epoch"] + 1
    return f"epoch {done}/{epochs}"


def table_of(facts: dict[str, Any]) -> str:
    """The table in Markdown."""
    return markdown_table([COLUMNS, *(cells_of(row) for row in facts["rows"])])


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table, in words."""
    words = [row["ablation"]]
    for column in ("pretrain", "finetune"):
        found = row[column]
        ours = found["status"] if found["ours"] is None else f"{found['ours']:.1f}"
        words += [f"{found['paper']:.1f}", "-" if ours == "not begun" else ours]
    return tuple(words)


def write_table(out: Path, facts: dict[str, Any]) -> None:
    """Write DIR/ablation.md."""
    changed = " ".join(facts["changed"]) or "nothing"
    text = (
        "# Ablation of DeiT-B\n\nTop-1 in percent after training and after fine-tuning, beside "
        "Table 8 of arXiv:2012.12877.\n\n"
        f"Changed in all runs: {changed}.\n\n{table_of(facts)}\n"
    )
    replace_file(out / TABLE, text.encode())
