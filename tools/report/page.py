"""The HTML of a report: one page that loads nothing, for a browser, a phone or a printer.

Everything that comes from a file or the command line passes through `html.escape`.
"""

from __future__ import annotations

import base64
import json
import re
from html import escape
from itertools import count

from fastdeit.tools.report import plots
from fastdeit.tools.report.inputs import Json, Run
from fastdeit.tools.report.results import (
    Result,
    commands_of,
    describe,
    digits,
    facts,
    fmt,
    half_width_pct,
    headline,
    notes_of,
)
from fastdeit.tools.report.style import STYLE

GENERATOR = '<meta name="generator" content="fastdeit report">'
# The browser itself refuses what would leave the page, should an input ever get past escape().
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

CASES = {
    "loaders": "Loader rates",
    "step": "Step rates",
    "end-to-end": "Training from files",
    "augment": "Augmentation",
    "convert": "Conversion",
    "table5": "Inference, as in Table 5 of the paper",
    "ceilings": "What the machine can do",
}
ABOUT_CASES = {
    "loaders": "The loader alone: the images that it delivers, with no model behind it.",
    "step": "The model alone: training steps on images that are already in memory.",
    "end-to-end": "Training steps on images that are decoded from files.",
    "augment": "Operations, policies and the whole stage, on one core or on the GPU.",
    "convert": "The whole program, from a folder of JPEGs to a dataset on the disk.",
    "table5": "Forward passes of the paper's models, without training.",
    "ceilings": "The bounds of the other rates, measured in the same run.",
}


def make_page(
    title: str,
    runs: list[Run],
    results: list[Result],
    bench: list[Json],
    bench_notes: list[str],
    not_measured: list[str],
) -> str:
    """Write the report.

    Args:
        title: the heading.
        runs: the runs, the leading one first.
        results: the result of each run.
        bench: benchmark rows, in the order of the page.
        bench_notes: notes on the benchmark files.
        not_measured: what the report does not show, one item each.

    Returns:
        The HTML document; the same arguments give the same text.
    """
    number = count(1)
    sections = [
        make_head(title, runs, results, bench_notes),
        make_heads_table(runs, results),
        *(make_run(run, result, number) for run, result in zip(runs, results, strict=True)),
        *make_bench(bench, number),
        make_environment(runs, bench),
        make_commands(runs),
    ]
    if not_measured:
        sections.append(
            section("What was not measured", f'<ul class="open">{make_items(not_measured)}</ul>')
        )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in sections if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def make_head(title: str, runs: list[Run], results: list[Result], bench_notes: list[str]) -> str:
    """The first screen: the result of each run against chance, and what to know about it."""
    lines = []
    for run, result in zip(runs, results, strict=True):
        failed = " failed" if result.has_failed else ""
        lines.append(
            f'<p class="result{failed}"><strong>{escape(headline(result))}</strong> '
            f"<span>{escape(describe(run))}</span></p>"
        )
    notes = [
        (f"{run.label}: " if len(runs) > 1 else "") + note
        for run, result in zip(runs, results, strict=True)
        for note in notes_of(run, result)
    ] + bench_notes
    box = f'<ul class="notes">{make_items(notes)}</ul>' if notes else ""
    return f"<header>\n<h1>{escape(title)}</h1>\n{''.join(lines)}\n{box}</header>"


def make_heads_table(runs: list[Run], results: list[Result]) -> str:
    """Top-1 and top-5 of every head of every run, with chance."""
    rows = []
    for run, result in zip(runs, results, strict=True):
        # One run needs no column for its name, which a phone has no room for.
        start = f"<th>{escape(run.label)}</th>" if len(runs) > 1 else ""
        for name, scores in result.heads.items():
            cells = [
                score_cell(scores.get(key), result.num_images) for key in ("top1_pct", "top5_pct")
            ]
            is_main = ' class="main"' if name == result.head else ""
            rows.append(
                f"<tr{is_main}>{start}<td>{escape(name)}</td>"
                f"{''.join(cells)}<td>{fmt_loss(scores)}</td><td>{fmt(result.num_images)}</td>"
                f"<td>{escape(result.source)}</td></tr>"
            )
        if result.chance_pct is not None:
            top5_pct = min(100.0, 5 * result.chance_pct)
            rows.append(
                f'<tr class="chance">{start}<td>chance</td>'
                f"<td>{fmt(result.chance_pct, digits(result))}</td>"
                f"<td>{fmt(top5_pct, digits(result))}</td><td></td><td></td>"
                f"<td>{fmt(result.num_classes)} classes of one size</td></tr>"
            )
    if not rows:
        return ""
    columns = ["head", "top-1, %", "top-5, %", "loss", "images", "from"]
    table = make_table(["run", *columns] if len(runs) > 1 else columns, rows)
    joint = "joint" in {name for result in results for name in result.heads}
    return section(
        "Accuracy",
        table + '<p class="caption">&plusmn; is half the width of Wilson\'s 95% interval for that '
        "many images. It covers the choice of validation images only; each row is one run, so the "
        "spread over seeds is not in it."
        + (" Joint is the fusion of the class and the distillation head." if joint else "")
        + "</p>",
    )


def score_cell(score_pct: float | None, num_images: int | None) -> str:
    """A percentage with its half width."""
    half = half_width_pct(score_pct, num_images)
    width = "" if half is None else f" <small>&plusmn; {half:.1f}</small>"
    return f"<td>{fmt(score_pct, 1)}{width}</td>"


def fmt_loss(scores: Json) -> str:
    """The loss of a head with three decimals."""
    return fmt(scores.get("loss"), 3)


def make_run(run: Run, result: Result, number: count[int]) -> str:
    """Curves, facts, contact sheet and configuration of one run."""
    panels, captions = [], []
    if any(row.get("loss") is not None for row in run.train):
        panels.append(plots.loss_svg(run.train, f"f{next(number)}"))
        span = plots.span_points(len(run.train))
        captions.append(
            f"Loss: thin as logged, thick its exponential mean over {span} logged values; "
            "it is taken on augmented images and does not compare with a validation loss."
        )
    if run.evals:
        panels.append(plots.top1_svg(run.evals, result.chance_pct, f"f{next(number)}"))
        captions.append("Top-1: at the evaluations during training.")
    if any(row.get("lr") is not None for row in run.train):
        panels.append(plots.lr_svg(run.train, f"f{next(number)}"))
    pairs = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts(run)
    )
    body = f'<dl class="facts">{pairs}</dl>'
    if panels:
        body += f'<figure class="panels">{"".join(panels)}</figure>'
        body += f'<p class="caption">{" ".join(captions)}</p>'
    if run.sheet is not None:
        data = base64.b64encode(run.sheet).decode()
        body += (
            '<figure class="sheet"><img alt="Augmented training images" '
            f'src="data:image/png;base64,{data}"></figure><p class="caption">Training images '
            "as the model sees them, after augmentation.</p>"
        )
    if run.config:
        text = json.dumps(run.config, indent=2, ensure_ascii=False, sort_keys=False)
        body += make_details("Configuration", f"<pre>{escape(text)}</pre>")
    return section(f"Run: {run.label}", body)


def make_bench(rows: list[Json], number: count[int]) -> list[str]:
    """One section for each case of the benchmarks: bars, then a table."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(fmt(row.get("case")), []).append(row)
    sections = []
    for case, group in groups.items():
        by_unit: dict[str, list[Json]] = {}
        for row in group:
            by_unit.setdefault(fmt(row.get("unit")), []).append(row)
        # "loaders, 2 cores" and "step: deit-b, batch 256" are of the benchmarks loaders and step.
        family, *rest = re.split("[:,] ", case, maxsplit=1)
        about = ABOUT_CASES.get(family, "")
        body = f"<p>{about}</p>" if about else ""
        for unit_rows in by_unit.values():
            if any(row.get("median") is not None for row in unit_rows):
                svg = plots.bars_svg(unit_rows, f"f{next(number)}")
                body += f'<figure class="bars">{svg}</figure>'
        body += '<p class="caption">Bars are medians, whiskers the 20th to 80th percentile'
        body += ", grey the baseline.</p>" if any(r.get("baseline") for r in group) else ".</p>"
        title = ": ".join([CASES.get(family, f"Benchmark: {family}"), *rest])
        sections.append(section(title, body + bench_table(group)))
    return sections


def bench_table(rows: list[Json]) -> str:
    """The rows of one case, each with its ratio to the baseline and its bound."""
    baselines = list(dict.fromkeys(row["baseline"] for row in rows if row.get("baseline")))
    lines = []
    for row in rows:
        is_baseline = row.get("name") in baselines
        low, high = row.get("p20"), row.get("p80")
        spread = f"{fmt(low)} &ndash; {fmt(high)}" if (low, high) != (None, None) else "n/a"
        share, ratio = row.get("frac_of_bound"), row.get("ratio")
        bound = fmt(row.get("bound"))
        if row.get("bound_what"):
            bound += f" <small>{escape(str(row['bound_what']))}</small>"
        note = f"<small>{escape(str(row['note']))}</small>" if row.get("note") else ""
        against = "baseline" if is_baseline else "n/a" if ratio is None else f"{ratio:.2f} x"
        lines.append(
            f"<tr{' class=chance' if is_baseline else ''}><th>{escape(fmt(row.get('name')))}"
            f"{note}</th><td>{fmt(row.get('median'))}</td><td>{spread}</td>"
            f"<td>{fmt(row.get('n'))}</td><td>{escape(fmt(row.get('unit')))}</td>"
            f"<td>{against}</td><td>{bound}</td>"
            f"<td>{'n/a' if share is None else f'{100 * share:.0f}%'}</td></tr>"
        )
    table = make_table(
        ["what", "median", "p20 to p80", "n", "unit", "ratio", "bound", "of bound"], lines
    )
    names = "; ".join(map(str, baselines)) if baselines else "n/a"
    return f'{table}<p class="caption">Baseline of the ratios: {escape(names)}.</p>'


def make_environment(runs: list[Run], bench: list[Json]) -> str:
    """Versions and hardware, one column for each environment that differs."""
    columns: list[tuple[str, Json]] = []
    for name, content in [
        *((run.label, run.environment) for run in runs),
        *(("benchmarks", row.get("environment") or {}) for row in bench),
    ]:
        same = [i for i, (_, other) in enumerate(columns) if other == content]
        if not content:
            continue
        if not same:
            columns.append((name, content))
        elif name not in columns[same[0]][0].split(", "):
            columns[same[0]] = (f"{columns[same[0]][0]}, {name}", content)
    if not columns:
        return ""
    keys = dict.fromkeys(key for _, content in columns for key in content)
    lines = []
    for key in keys:
        cells = "".join(
            f"<td>{escape(plain(content[key]) if key in content else '')}</td>"
            for _, content in columns
        )
        lines.append(f"<tr><th>{escape(key)}</th>{cells}</tr>")
    return section(
        "Environment", make_table(["", *(name for name, _ in columns)], lines, "environment")
    )


def make_commands(runs: list[Run]) -> str:
    """The commands that the runs recorded, if they did."""
    commands = commands_of(runs)
    if not commands:
        return ""
    return section("To reproduce", f"<pre>{escape(chr(10).join(commands))}</pre>")


def plain(value: object) -> str:
    """A value of environment.json in words; numbers as they are, for versions and counts."""
    if value is None:
        return "none"
    return str(fmt(value) if isinstance(value, bool | int) else value)


def make_items(texts: list[str]) -> str:
    """List items."""
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def make_table(head: list[str], rows: list[str], name: str = "numbers") -> str:
    """A table that scrolls sideways where the screen is narrower; `rows` are HTML already."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return (
        f'<div class="scroll"><table class="{name}"><thead><tr>{cells}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )


def make_details(title: str, body: str) -> str:
    """A part that opens on a click; `body` is HTML already."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def section(title: str, body: str) -> str:
    """A section of the page; `body` is HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"
