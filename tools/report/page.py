"""The HTML of a report: what `page.html` shows; one page that loads nothing.

For a browser, a phone or a printer. The template escapes whatever is no drawing of ours.
"""

from __future__ import annotations

import base64
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastdeit.measured.run import Json
from fastdeit.tools.report import results as of_runs
from fastdeit.tools.report.plots import bars, curves
from fastdeit.tools.report.results import Result, fmt

GENERATOR = '<meta name="generator" content="fastdeit report">'

CASES = {
    "loaders": (
        "Loader rates",
        "The loader alone: the images that it delivers, with no model behind it.",
    ),
    "step": ("Step rates", "The model alone: training steps on images that are already in memory."),
    "end-to-end": ("Training from files", "Training steps on images that are decoded from files."),
    "augment": (
        "Augmentation",
        "Operations, policies and the whole stage, on one core or on the GPU.",
    ),
    "convert": (
        "Conversion",
        "The whole program, from a folder of JPEGs to a dataset on the disk.",
    ),
    "table5": (
        "Inference, as in Table 5 of the paper",
        "Forward passes of the paper's models, without training.",
    ),
    "ceilings": (
        "What the machine can do",
        "The bounds of the other rates, measured in the same run.",
    ),
}
"""The title of a benchmark's section, and what it is about."""


def make_page(
    title: str,
    results: list[Result],
    bench: list[Json],
    bench_notes: list[str],
    not_measured: list[str],
) -> str:
    """Write the report; the same arguments give the same text.

    Args:
        title: the heading.
        results: of the runs, the leading one first.
        bench: benchmark rows, in the order of the page.
        bench_notes: notes on the benchmark files.
        not_measured: what the report does not show, one item each.
    """
    templates = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    templates.filters.update(fmt=fmt, plain=_plain)
    ids = count(1)
    notes = [
        (f"{result.label}: " if len(results) > 1 else "") + note
        for result in results
        for note in of_runs.notes_of(result)
    ]
    return templates.get_template("page.html").render(
        generator=Markup(GENERATOR),
        title=title,
        results=results,
        notes=notes + bench_notes,
        curves=lambda result: list(curves(result, ids)),
        benchmarks=_benchmarks(bench),
        bars=lambda rows: bars(rows, ids),
        environments=(environments := _environments(results, bench)),
        environment_keys=dict.fromkeys(key for _, content in environments for key in content),
        commands=of_runs.commands_of(result.run for result in results),
        not_measured=not_measured,
        headline=of_runs.headline,
        describe=of_runs.describe,
        facts=of_runs.facts,
        half_width_pct=of_runs.half_width_pct,
        base64=lambda image: base64.b64encode(image).decode(),
        json=lambda content: json.dumps(content, indent=2, ensure_ascii=False),
    )


def _benchmarks(rows: list[Json]) -> list[dict[str, Any]]:
    """What the sections of benchmarks show, one for each case."""
    by_case: dict[str, dict[str, list[Json]]] = {}
    for row in rows:
        by_unit = by_case.setdefault(fmt(row.get("case")), {})
        by_unit.setdefault(fmt(row.get("unit")), []).append(row)
    sections = []
    for case, by_unit in by_case.items():
        # "loaders, 2 cores" and "step: deit-b, batch 256" are of the benchmarks loaders and step.
        family, *rest = re.split("[:,] ", case, maxsplit=1)
        name, about = CASES.get(family, (f"Benchmark: {family}", ""))
        group = [row for row in rows if fmt(row.get("case")) == case]
        sections.append(
            {
                "title": ": ".join([name, *rest]),
                "about": about,
                "by_unit": [*by_unit.values()],
                "rows": group,
                "baselines": [*dict.fromkeys(filter(None, (r.get("baseline") for r in group)))],
            }
        )
    return sections


def _environments(results: list[Result], bench: list[Json]) -> list[tuple[str, Json]]:
    """(whose it is, versions and hardware) for each environment that differs."""
    found: list[tuple[list[str], Json]] = []
    for name, content in [
        *((result.label, result.run.environment) for result in results),
        *(("benchmarks", row.get("environment") or {}) for row in bench),
    ]:
        same = next((names for names, other in found if other == content), None)
        if same is None and content:
            found.append(([name], content))
        elif same is not None and name not in same:
            same.append(name)
    return [(", ".join(names), content) for names, content in found]


def _plain(value: object) -> str:
    """A value of environment.json in words; numbers as they are, for versions and counts."""
    if value is None:
        return "none"
    return str(fmt(value) if isinstance(value, bool | int) else value)
