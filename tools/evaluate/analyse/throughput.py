"""`fastdeit analyse throughput`: Figure 1 with checkpoints of one's own."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit.errors import UserError
from fastdeit.measured.rows import ROWS
from fastdeit.measured.run import CONFIG, EVALUATION, Json, load_bench, load_evaluation, load_json
from fastdeit.paper.figure1 import Measured, Point, architecture_of, papers_rates, plot_panels
from fastdeit.paper.published import published
from fastdeit.text.figures import rounded
from fastdeit.text.tables import figure, text_table
from fastdeit.tools.evaluate.analyse.results import check_out, finish, need_one
from fastdeit.tools.evaluate.analyse.voters import short_names

CASES = ("table5", "resolutions")
Evaluations = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN_OR_EVALUATION [...]", help_behavior_hint="(required)"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """A checkpoint that was evaluated."""

    name: str
    """Its folder's."""
    path: Path
    """The evaluation."""
    model: str
    """timm's name."""
    image_size: int
    """Side of the images in pixels."""
    head: str
    """The head with the highest accuracy, and after a dash "ema" if its weights were averaged."""
    top1_pct: float
    """That accuracy."""
    set: str
    """Of which set: imagenet, v2 or none; unknown in evaluations of earlier versions."""


def throughput(
    evaluations: Evaluations = (),
    *,
    bench: tyro.conf.UseAppendAction[tuple[Path, ...]],
    out: Path | None = None,
) -> int:
    """Show accuracy against throughput of one's own checkpoints, beside the paper's points.

    Figure 1 of the paper. Accuracies are those of `fastdeit evaluate`, rates those of `fastdeit
    bench table5 --out DIR` (or resolutions) on whatever machine they were measured.

    Args:
        evaluations: folders of runs with an evaluation.json, or such files.
        bench: a file of rows written by `fastdeit bench`, or its --out folder.
        out: folder for throughput.json and a plot, throughput.png.

    Returns:
        0.
    """
    check_out(out)
    need_one(evaluations, "RUN_OR_EVALUATION", "a folder of a run")
    unique = list(dict.fromkeys(evaluations))
    scored = [_read(path, name) for path, name in zip(unique, short_names(unique), strict=True)]
    files = [path / ROWS if path.is_dir() else path for path in bench]
    rows, notes = load_bench(files)
    measured, machines = _measured(rows)
    lines = [["checkpoint", "protocol", "img/s", "top-1 %", "paper img/s (V100)", "paper top-1 %"]]
    points: dict[str, list[Point]] = {}
    facts: list[Json] = []
    for each in scored:
        wanted = architecture_of(each.model, each.image_size)
        # The last measurement counts.
        rates = {one.protocol: one.img_per_s for one in measured if one.architecture == wanted}
        if not rates:
            notes.append(
                f"{each.name}: no row of {', '.join(map(str, files))} is of {each.model} at "
                f"{each.image_size} pixels; measure it with `fastdeit bench table5 --models "
                f"{each.model} --out DIR`"
            )
        if each.set != "imagenet":
            notes.append(
                f"{each.name}: its accuracy is not of ImageNet's validation set; compare the rates"
            )
        papers = [row for row in published(each.model, each.image_size) if row.table != "Table 3"]
        papers_rate = figure(papers[0].throughput if papers else None, ",.5g")
        papers_top1 = " / ".join(f"{row.top1_pct:.1f}" for row in papers) or "n/a"
        for protocol, rate in rates.items():
            points.setdefault(protocol, []).append(Point(each.name, rate, each.top1_pct))
            ours = [protocol, rounded(rate), f"{each.top1_pct:.2f}"]
            lines.append([f"{each.name} ({each.head})", *ours, papers_rate, papers_top1])
        beside = [
            {"name": row.name, "img_per_s": row.throughput, "top1_pct": row.top1_pct}
            for row in papers
        ]
        facts.append({**asdict(each), "path": str(each.path), "img_per_s": rates, "paper": beside})
    if not points:
        raise UserError(
            f"bench must hold a row of a model that was evaluated. Found: none of "
            f"{', '.join(f'{each.model} at {each.image_size} px' for each in scored)}. "
            "Measure it with `fastdeit bench table5 --models MODEL --out DIR`."
        )
    print(text_table(lines, "llr"), file=sys.stderr)
    for note in [*notes, f"rates measured on: {', '.join(machines) or 'an unknown machine'}"]:
        print(note, file=sys.stderr)
    result = {"analysis": "throughput", "checkpoints": facts, "machines": machines, "notes": notes}
    finish("throughput", result, out, None)
    if out is not None:
        plot_panels(papers_rates(measured), out / "throughput.png", points)
    return 0


def _measured(rows: list[Json]) -> tuple[list[Measured], list[str]]:
    """The rows of inference among those of all benchmarks, and the machines they are of."""
    found, machines = [], {}
    for row in rows:
        model, size, median = row.get("model"), row.get("image_size"), row.get("median")
        protocol = (row.get("settings") or {}).get("protocol")
        is_inference = row.get("case") in CASES and row.get("unit") == "img/s"
        if is_inference and model and size and median and protocol:
            found.append(Measured(model, int(size), str(protocol), float(median)))
            environment = row.get("environment") or {}
            machines[str(environment.get("gpu") or environment.get("cpu") or "unknown")] = True
    return found, [*machines]


def _read(path: Path, name: str) -> _Scored:
    """Read an evaluation, or that of a run's folder."""
    path = path if path.suffix == ".json" else path / EVALUATION
    facts = load_evaluation(path)
    if facts is None:
        raise UserError(
            f"RUN_OR_EVALUATION must have an evaluation. Found: no {path}. "
            "Run `fastdeit evaluate` on its checkpoint."
        )
    heads = {head: score["top1_pct"] for head, score in facts["heads"].items()}
    for head, score in (facts.get("ema_heads") or {}).items():
        heads[f"{head}-ema"] = score["top1_pct"]
    model, size = facts.get("model"), facts.get("image_size")
    if model is None:  # evaluations of earlier versions
        model = (load_json(path.with_name(CONFIG)) or {}).get("model", {}).get("model")
    if not isinstance(model, str) or not isinstance(size, int):
        raise UserError(
            f"an evaluation must say of which model it is. Found: model {model!r}, image_size "
            f"{size!r} in {path}. Run `fastdeit evaluate` again."
        )
    if facts.get("model_options"):
        raise UserError(
            f"a model must be as timm builds it, to be compared with measured ones. Found: "
            f"{model} with {facts['model_options']}, in {path}. Leave it out."
        )
    head = max(heads, key=heads.__getitem__)
    best = {"head": head, "top1_pct": heads[head], "set": facts.get("set", "unknown")}
    return _Scored(name=name, path=path, model=model, image_size=size, **best)
