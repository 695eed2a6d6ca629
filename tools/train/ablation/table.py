"""The table of an ablation: ours beside the paper's, at any time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from fastdeit.errors import UserError
from fastdeit.files import replace_file
from fastdeit.measured.run import CONFIG, json_lines, load_json
from fastdeit.paper.ablation import table8
from fastdeit.recipes.table8 import ROWS, Row
from fastdeit.text.tables import markdown_table
from fastdeit.tools.train.ablation.runs import FINETUNED, TABLE, State, pretraining
from fastdeit.training.telemetry import METRICS

COLUMNS = ("row", "paper 224", "ours", "paper 384", "ours")


def facts_of(out: Path, state: State) -> dict[str, Any]:
    """Everything that the table of an ablation's folder says, for the program's last line."""
    rows = []
    for name, row in ROWS.items():
        paper = table8()[row.paper]
        first, second = pretraining(name), name + FINETUNED
        rows.append(
            {
                "row": name,
                "ablation": row.paper,
                "pretrain": _cell(out, state, first, row, paper.pretrain_224),
                "finetune": _cell(out, state, second, Row(row.paper), paper.finetune_384),
            }
        )
    return {"out": str(out), "changed": state.changed, "rows": rows}


def _cell(out: Path, state: State, run: str, row: Row, paper: float) -> dict[str, Any]:
    """The paper's accuracy in percent, ours, or how far the run is."""
    ours = None
    if run in state.finished:
        heads = state.finished[run]["result"].get("heads" if row.weights == "raw" else "ema_heads")
        # Both heads joined, where it has two.
        ours = float((heads.get("joint") or heads["class"])["top1_pct"]) if heads else None
        status = "done" if heads else "no average"
    else:
        status = "failed" if run in state.failed else _progress(out / run)
    return {"run": run, "paper": paper, "ours": ours, "status": status}


def _progress(run: Path) -> str:
    """How far a run is that has not ended: not begun, or the epochs that are evaluated."""
    try:
        epochs = (load_json(run / CONFIG) or {})["optim"]["epochs"]
    except (UserError, KeyError):
        return "not begun"
    done = 0
    with suppress(UserError):  # nothing is logged yet, or it is damaged
        for _, row in json_lines(run / METRICS):
            if row is not None and row["kind"] == "eval":
                done = row["epoch"] + 1
    return f"epoch {done}/{epochs}"


def table_of(facts: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS]
    for row in facts["rows"]:
        words = [row["ablation"]]
        for found in (row["pretrain"], row["finetune"]):
            ours = found["status"] if found["ours"] is None else f"{found['ours']:.1f}"
            words += [f"{found['paper']:.1f}", "-" if ours == "not begun" else ours]
        lines.append(tuple(words))
    return markdown_table(lines)


def write_table(out: Path, facts: dict[str, Any]) -> None:
    """Write DIR/ablation.md."""
    changed = " ".join(facts["changed"]) or "nothing"
    text = (
        "# Ablation of DeiT-B\n\nTop-1 in percent after training and after fine-tuning, beside "
        "Table 8 of arXiv:2012.12877.\n\n"
        f"Changed in all runs: {changed}.\n\n{table_of(facts)}\n"
    )
    replace_file(out / TABLE, text.encode())
