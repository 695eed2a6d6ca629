"""The drawings of a report: SVG by matplotlib, coloured by the page's style sheet.

Text stays text and colours become CSS variables, so one drawing serves the light and the dark page.
The same numbers give the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastdeit.tools.report.inputs import Json
from fastdeit.tools.report.results import fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib writes into the SVG, each replaced by a variable of the style sheet.
# None may be black: matplotlib leaves out what is the default of SVG.
INK, FAINT, RULE = "#010203", "#020304", "#030405"
BLUE, ORANGE, GREEN = "#040506", "#050607", "#060708"
VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    RULE: "rule",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
}
HEAD_COLORS = {"class": BLUE, "dist": ORANGE, "joint": GREEN}
HEAD_STYLES = {"class": "--", "dist": ":", "joint": "-"}

PANEL_INCHES = (3.9, 2.7)  # 281 units wide: its 9-unit text is 10 px in 3 columns, 12 on a phone
BARS_INCHES = 4.4
FONT_SIZE = 9
MAX_POINTS = 1500  # more than the panel has pixels; keeps the page of a 300-epoch run small


def loss_svg(train: list[Json], prefix: str) -> str:
    """Draw the training loss: raw faint, smoothed on top.

    Args:
        train: lines of kind train.
        prefix: makes the ids of this drawing unique in the page.

    Returns:
        An inline <svg>.
    """
    steps, losses = series(train, "loss")
    with panel(prefix, "Training loss over the steps") as (axes, svg):
        axes.plot(*thin(steps, losses), color=BLUE, linewidth=0.8, alpha=0.35)
        axes.plot(*thin(steps, smooth(losses)), color=BLUE, linewidth=1.6)
        label(axes, "training loss", "step", pad=18)
    return svg[0]


def lr_svg(train: list[Json], prefix: str) -> str:
    """Draw the learning rate. Arguments and result as in `loss_svg`."""
    with panel(prefix, "Learning rate over the steps") as (axes, svg):
        axes.plot(*thin(*series(train, "lr")), color=INK, linewidth=1.4)
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=False)
        label(axes, "learning rate", "step", pad=18)
    return svg[0]


def top1_svg(evals: list[Json], chance_pct: float | None, prefix: str) -> str:
    """Draw the top-1 of each head, and chance.

    Args:
        evals: lines of kind eval.
        chance_pct: top-1 of guessing, None if unknown.
        prefix: as in `loss_svg`.

    Returns:
        An inline <svg>.
    """
    names = list(dict.fromkeys(name for row in evals for name in row["heads"]))
    highest = chance_pct or 0.0
    with panel(prefix, "Top-1 accuracy of each head over the steps") as (axes, svg):
        for name in names:
            points = [
                (row["step"], row["heads"][name]["top1_pct"])
                for row in evals
                if row["heads"].get(name, {}).get("top1_pct") is not None
            ]
            if not points:
                continue
            steps, scores = zip(*points, strict=True)
            highest = max(highest, *scores)
            axes.plot(
                steps,
                scores,
                color=HEAD_COLORS.get(name, INK),
                linestyle=HEAD_STYLES.get(name, "-."),
                linewidth=1.5,
                marker="o" if len(points) <= 12 else "",
                markersize=3,
                label=shorten_name(name, 10),
            )
        if chance_pct is not None:
            axes.axhline(
                chance_pct, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label="chance"
            )
        axes.set_ylim(0, min(100.0, 1.12 * highest + 1))
        label(axes, "top-1 on val, %", "step", pad=18)
        # Between title and axes: inside, some run would cross it.
        legend = axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 0.98),
            ncols=4,
            frameon=False,
            labelcolor=INK,
            handlelength=2,
            columnspacing=1.2,
            handletextpad=0.5,
            borderaxespad=0,
            borderpad=0.2,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return svg[0]


def bars_svg(rows: list[Json], prefix: str) -> str:
    """Draw medians as horizontal bars with whiskers from p20 to p80; the baseline is grey.

    Args:
        rows: benchmark rows of one unit; those without a finite median get no bar.
        prefix: as in `loss_svg`.

    Returns:
        An inline <svg>.
    """
    baselines = {row.get("baseline") for row in rows}
    unit = fmt(rows[0].get("unit"))
    size = (BARS_INCHES, 0.44 * len(rows) + 0.55)
    with panel(prefix, f"Medians in {unit}", size) as (axes, svg):
        highest = 0.0
        for position, row in enumerate(rows):
            middle, low, high = (finite(row.get(key)) for key in ("median", "p20", "p80"))
            name = shorten_name(fmt(row.get("name")))
            axes.text(0, position - 0.29, name, color=INK, va="bottom", parse_math=False)
            if middle is not None:
                is_baseline = row.get("name") in baselines
                axes.barh(
                    position,
                    middle,
                    height=0.42,
                    color=FAINT if is_baseline else BLUE,
                    alpha=0.6 if is_baseline else 0.9,
                )
            if middle is not None and low is not None and high is not None:
                axes.plot(
                    [low, high], [position] * 2, color=INK, linewidth=1, marker="|", markersize=6
                )
            end = max(middle or 0.0, high or 0.0)
            highest = max(highest, end)
            axes.annotate(
                fmt(middle),
                (end, position),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                parse_math=False,
            )
        axes.set_xlim(0, 1.16 * highest or 1)  # room for the number behind the longest bar
        axes.set_ylim(len(rows) - 0.6, -0.95)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        label(axes, "", unit)
    return svg[0]


@contextmanager
def panel(
    prefix: str, title: str, inches: tuple[float, float] = PANEL_INCHES
) -> Iterator[tuple[Axes, list[str]]]:
    """Give axes to draw on; once the block ends, the list holds the SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    svg: list[str] = []
    with matplotlib.rc_context():
        # The user's matplotlibrc must not reach the page: the same input, the same bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "fastdeit",
                "font.size": FONT_SIZE,
                "axes.edgecolor": RULE,
                "axes.labelcolor": FAINT,
                "xtick.color": RULE,
                "ytick.color": RULE,
                "xtick.labelcolor": FAINT,
                "ytick.labelcolor": FAINT,
                "text.color": INK,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "grid.color": RULE,
                "grid.alpha": 0.5,
                "grid.linewidth": 0.6,
                "axes.axisbelow": True,
                "figure.constrained_layout.use": True,
            }
        )
        figure = Figure(figsize=inches)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield axes, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg.append(inline(buffer.getvalue(), prefix, title))


def inline(document: str, prefix: str, title: str) -> str:
    """Turn an SVG document of matplotlib into an element of the page.

    Args:
        document: the SVG file; its text is already escaped.
        prefix: put before every id.
        title: what a screen reader says.

    Returns:
        The <svg>, without header, metadata, links or colours of its own.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg) width="[^"]*" height="[^"]*"', r"\1", svg)
    for stand_in, name in VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def label(axes: Axes, title: str, below: str, pad: int = 6) -> None:
    """Write the quantity above the axes, where it needs no turned text, and the unit below."""
    axes.set_title(title, loc="left", fontsize=FONT_SIZE, color=INK, pad=pad)
    axes.set_xlabel(below, parse_math=False)
    axes.locator_params(axis="x", nbins=6, integer=below == "step")


def shorten_name(name: str, length: int = 54) -> str:
    """Cut a name that is wider than its place in the drawing; the tables have it in full."""
    return name if len(name) <= length else name[: length - 3] + "..."


def series(rows: list[Json], key: str) -> tuple[list[float], list[float]]:
    """Steps and values under `key`, where there is a finite value."""
    points = [(row["step"], row[key]) for row in rows if finite(row.get(key)) is not None]
    return [step for step, _ in points], [value for _, value in points]


def finite(value: float | None) -> float | None:
    """`value` if it is a finite number, else None."""
    return value if value is not None and math.isfinite(value) else None


def span_points(num_points: int) -> int:
    """How many points the smoothed loss averages over, about."""
    return max(5, num_points // 25)


def smooth(values: list[float]) -> list[float]:
    """Exponential mean over about `span_points` points, unbiased at the start."""
    decay = 1 - 2 / (span_points(len(values)) + 1)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed.append(mean / weight)
    return smoothed


def thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Every k-th point and the last, so that at most about MAX_POINTS are drawn."""
    stride = math.ceil(len(steps) / MAX_POINTS) or 1
    keep = sorted({*range(0, len(steps), stride), *range(len(steps))[-1:]})
    return [steps[i] for i in keep], [values[i] for i in keep]
