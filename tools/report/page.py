"""The HTML of a report: what `page.html` shows; one page that loads nothing.

For a browser, a phone or a printer. The template escapes whatever is no drawing of ours. Jinja2 is
there wherever torch is.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastdeit.measured.run import Json
from fastdeit.tools.report import results as of_runs
from fastdeit.tools.report.classes import classes_of
from fastdeit.tools.report.plots import bars, curves
from fastdeit.tools.report.results import Result, fmt

GENERATOR = '<meta name="generator" content="fastdeit report">'


def make_page(
    title: str,
    results: list[Result],
    bench: list[Json],
    bench_notes: list[str],
    not_measured: list[str],
) -> str:
    """Write the report, the leading run first; the same arguments give the same text."""
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
        classes_of=classes_of,
        headline=of_runs.headline,
        describe=of_runs.describe,
        facts=of_runs.facts,
        half_width_pct=of_runs.half_width_pct,
        base64=lambda image: base64.b64encode(image).decode(),
        json=lambda content: json.dumps(content, indent=2, ensure_ascii=False),
    )


def _benchmarks(rows: list[Json]) -> Iterator[dict[str, Any]]:
    """What the sections of benchmarks show, one for each case."""
    for case, group in _grouped(rows, "case").items():
        # "loaders, 2 cores" and "step: deit-b, batch 256" are of the benchmarks loaders and step.
        family, *rest = re.split("[:,] ", case, maxsplit=1)
        yield {
            "family": family,
            "rest": rest,
            "rows": group,
            "by_unit": _grouped(group, "unit").values(),
            "baselines": [*dict.fromkeys(filter(None, (row.get("baseline") for row in group)))],
        }


def _grouped(rows: list[Json], key: str) -> dict[str, list[Json]]:
    """Rows by what they have under a key, in their order."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(fmt(row.get(key)), []).append(row)
    return groups


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
