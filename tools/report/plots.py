"""The drawings of a report: SVG by matplotlib, coloured by the page's style sheet.

Text stays text and colours become CSS variables, so one drawing serves the light and the dark page.
The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fastdeit.measured.run import Json
from fastdeit.text.plots import HEAD_LINES, cut, house_style, new_figure, note
from fastdeit.tools.report.results import Result, fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib writes into the SVG, each replaced by a variable of the style sheet.
# None may be black: matplotlib leaves out what is the default of SVG.
VARIABLES = {
    f"#0{n}0{n + 1}0{n + 2}": name
    for n, name in enumerate(("ink", "faint", "rule", "blue", "orange", "green"), 1)
}
INK, FAINT, RULE, BLUE, ORANGE, GREEN = VARIABLES
HEAD_COLORS = {"class": BLUE, "dist": ORANGE, "joint": GREEN}

PANEL_INCHES = (3.9, 2.7)  # 281 units wide: its 9-unit text is 10 px in 3 columns, 12 on a phone
BARS_INCHES = 4.4
FONT_SIZE = 9
MAX_POINTS = 1500  # more than the panel has pixels; keeps the page of a 300-epoch run small
SVG_LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastdeit",
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "text.color": INK,
    "grid.color": RULE,
    "grid.alpha": 0.5,
    "grid.linewidth": 0.6,
}


def curves(result: Result, ids: count[int]) -> Iterator[tuple[Markup, str]]:
    """Draw what a run logged: inline <svg>, each with what a reader has to know of it.

    Args:
        result: of the run.
        ids: numbers that make the ids of drawings unique in the page.
    """
    run = result.run
    pad: dict[str, Any] = {"below": "step", "pad": 18}
    steps, losses = series(run.train, "loss")
    if any(row.get("loss") is not None for row in run.train):
        with _panel(ids, "Training loss over the steps", "training loss", **pad) as (axes, svgs):
            axes.plot(*_thin(steps, losses), color=BLUE, linewidth=0.8, alpha=0.35)
            axes.plot(*_thin(steps, _smooth(losses)), color=BLUE, linewidth=1.6)
        yield (
            svgs[0],
            f"Loss: thin as logged, thick its exponential mean over {_span(len(run.train))} logged "
            "values; it is taken on augmented images and does not compare with a validation loss.",
        )
    if run.evals:
        title = "Top-1 accuracy of each head over the steps"
        with _panel(ids, title, "top-1 on val, %", **pad) as (axes, svgs):
            _draw_top1(axes, run.evals, result.chance_pct)
        yield svgs[0], "Top-1: at the evaluations during training."
    if any(row.get("lr") is not None for row in run.train):
        with _panel(ids, "Learning rate over the steps", "learning rate", **pad) as (axes, svgs):
            axes.plot(*_thin(*series(run.train, "lr")), color=INK, linewidth=1.4)
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=False)
        yield svgs[0], ""


def _draw_top1(axes: Axes, evals: list[Json], chance_pct: float | None) -> None:
    """The top-1 of each head, and chance."""
    highest = chance_pct or 0.0
    for name in dict.fromkeys(name for row in evals for name in row["heads"]):
        scores = [{"step": row["step"], **row["heads"].get(name, {})} for row in evals]
        steps, top1 = series(scores, "top1_pct")
        if steps:
            highest = max(highest, *top1)
            axes.plot(
                steps,
                top1,
                color=HEAD_COLORS.get(name, INK),
                linestyle=HEAD_LINES.get(name, "-."),
                linewidth=1.5,
                marker="o" if len(steps) <= 12 else "",
                markersize=3,
                label=cut(name, 10),
            )
    if chance_pct is not None:
        line = (0, (1, 2))
        axes.axhline(chance_pct, color=FAINT, linewidth=1, linestyle=line, label="chance")
    axes.set_ylim(0, min(100.0, 1.12 * highest + 1))
    # Between title and axes: inside, some run would cross it.
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 0.98), "ncols": 4}
    place |= {"columnspacing": 1.2, "handletextpad": 0.5, "borderaxespad": 0, "borderpad": 0.2}
    axes.legend(handlelength=2, **place)


def bars(rows: list[Json], ids: count[int]) -> Markup:
    """Draw medians as horizontal bars with whiskers from p20 to p80; the baseline is grey.

    Args:
        rows: benchmark rows of one unit; those without a finite median get no bar.
        ids: as in `curves`.
    """
    baselines = {row.get("baseline") for row in rows}
    unit = fmt(rows[0].get("unit"))
    size = (BARS_INCHES, 0.44 * len(rows) + 0.55)
    with _panel(ids, f"Medians in {unit}", "", unit, size) as (axes, svgs):
        highest = 0.0
        for place, row in enumerate(rows):
            middle, low, high = (_finite(row.get(key)) for key in ("median", "p20", "p80"))
            axes.text(0, place - 0.29, cut(fmt(row.get("name")), 54), va="bottom")
            if middle is not None:
                is_baseline = row.get("name") in baselines
                color, alpha = (FAINT, 0.6) if is_baseline else (BLUE, 0.9)
                axes.barh(place, middle, height=0.42, color=color, alpha=alpha)
                if low is not None and high is not None:
                    axes.plot([low, high], [place] * 2, "|-", color=INK, linewidth=1, markersize=6)
            end = max(middle or 0.0, high or 0.0)
            highest = max(highest, end)
            note(axes, fmt(middle), (end, place), (5, 0), va="center")
        axes.set_xlim(0, 1.16 * highest or 1)  # room for the number behind the longest bar
        axes.set_ylim(len(rows) - 0.6, -0.95)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    return svgs[0]


@contextmanager
def _panel(
    ids: count[int],
    spoken: str,
    title: str,
    below: str,
    inches: tuple[float, float] = PANEL_INCHES,
    pad: int = 6,
) -> Iterator[tuple[Axes, list[Markup]]]:
    """Axes to draw on; once the block ends, the list holds the SVG."""
    svgs: list[Markup] = []
    with house_style(SVG_LOOK):
        figure = new_figure(*inches)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield axes, svgs
        # The quantity above the axes, where it needs no turned text, and the unit below.
        axes.set_title(title, pad=pad)
        axes.set_xlabel(below)
        axes.locator_params(axis="x", nbins=6, integer=below == "step")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svgs.append(_inline(buffer.getvalue(), f"f{next(ids)}", spoken))


def _inline(document: str, prefix: str, title: str) -> Markup:
    """An SVG file of matplotlib as an element without header, metadata, links or own colours."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg) width="[^"]*" height="[^"]*"', r"\1", svg)
    for stand_in, name in VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    # matplotlib has escaped the texts inside.
    return Markup('<svg role="img" aria-label="{}"').format(title) + Markup(svg[len("<svg") :])


def series(rows: list[Json], key: str) -> tuple[list[float], list[float]]:
    """Steps and values under `key`, where there is a finite value."""
    points = [(row["step"], row[key]) for row in rows if _finite(row.get(key)) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _finite(value: float | None) -> float | None:
    """`value` if it is a finite number, else None."""
    return value if value is not None and math.isfinite(value) else None


def _span(num_points: int) -> int:
    """How many points the smoothed loss averages over, about."""
    return max(5, num_points // 25)


def _smooth(values: list[float]) -> list[float]:
    """Exponential mean over about `_span` points, unbiased at the start."""
    decay = 1 - 2 / (_span(len(values)) + 1)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed.append(mean / weight)
    return smoothed


def _thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Every k-th point and the last, so that at most about MAX_POINTS are drawn."""
    stride = math.ceil(len(steps) / MAX_POINTS) or 1
    keep = sorted({*range(0, len(steps), stride), *range(len(steps))[-1:]})
    return [steps[i] for i in keep], [values[i] for i in keep]
