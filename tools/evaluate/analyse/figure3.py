"""The plot of `fastdeit analyse epochs`: accuracy while training, and Figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from fastdeit.paper.published import Published, published
from fastdeit.text.plots import (
    COLORS,
    GREY,
    HEAD_LINES,
    house_style,
    new_figure,
    note,
    shorten,
    whole_numbers,
)
from fastdeit.tools.evaluate.analyse.runs import RunCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAD_MARKERS = {"class": "s", "dist": "^", "joint": "o"}
LINE_IN, CHARACTER_IN = 0.6, 0.07
"""Inches of a legend's entry in 8 points: its line and the spaces around, a character."""
AVERAGED = {"linewidth": 2.4, "alpha": 0.45}
"""How averaged weights differ from raw ones."""


@house_style()
def plot_epochs(runs: list[RunCurves]) -> Figure:
    """Draw accuracy while training; where runs differ in length, against their lengths too."""
    has_lengths = any(run.papers_rows for run in runs) or bool(lines_of(runs))
    figure = new_figure(11.5 if has_lengths else 7.2, 4.8)
    panels = figure.subplots(1, 2 if has_lengths else 1, squeeze=False)[0]
    for run, color in _coloured(runs):
        for curve in run.curves:
            is_short = len(curve.epochs) <= 15
            panels[0].plot(
                curve.epochs,
                curve.top1_pct,
                color=color,
                linestyle=HEAD_LINES.get(curve.head, "-."),
                marker=HEAD_MARKERS.get(curve.head, "d") if is_short else "",
                markersize=4,
                **({"linewidth": 1.4} if curve.weights == "raw" else AVERAGED),
            )
    panels[0].set_xlabel("epochs done")
    panels[0].set_title("while training")
    if has_lengths:
        _draw_lengths(panels[1], runs)
    for axes in panels:
        axes.set_ylabel("top-1, %")
        whole_numbers(axes.xaxis)
    _add_legend(figure, runs, has_lengths)
    return figure


def _coloured(runs: list[RunCurves]) -> list[tuple[RunCurves, str]]:
    """Each run with its colour."""
    return [(run, COLORS[number % len(COLORS)]) for number, run in enumerate(runs)]


def _draw_lengths(axes: Axes, runs: list[RunCurves]) -> None:
    """Figure 3 itself: accuracy at the end of runs, against how long they are."""
    papers = {row.name: row for run in runs for row in run.papers_rows}
    for row in papers.values():
        assert row.epochs is not None  # they say how long
        where, marker = (row.epochs, row.top1_pct), HEAD_MARKERS.get(row.head, "d")
        axes.scatter(*where, color=GREY, marker=marker, s=26, zorder=2)
        if row.table == "Table 5":
            note(axes, row.name.partition(",")[0], where, (-7, 2), fontsize=7.5, color=GREY)
    for run, color in _coloured(runs):
        for curve in run.curves if run.is_done else ():
            axes.scatter(
                curve.epochs[-1],
                curve.top1_pct[-1],
                edgecolors=color,
                facecolors=color if curve.weights == "raw" else "none",
                marker=HEAD_MARKERS.get(curve.head, "d"),
                s=36,
                zorder=3,
            )
    for points in lines_of(runs):
        axes.plot(*zip(*points, strict=True), color="#555555", linewidth=0.7, zorder=1)
    plain = {row.name: row for run in runs for row in _undistilled(run) if row.name not in papers}
    for row in plain.values():
        axes.axhline(row.top1_pct, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        text, place = f"{row.name} of the paper, no distillation", (0.99, row.top1_pct)
        in_what = ("axes fraction", "data")
        note(axes, text, place, (0, -4), xycoords=in_what, fontsize=7.5, color=GREY)
    axes.set_xlabel("epochs of the whole run")
    axes.set_title("at the end (Figure 3)")
    axes.margins(x=0.2, y=0.12)


def lines_of(runs: list[RunCurves]) -> list[list[tuple[int, float]]]:
    """(epochs, mean top-1) of runs that differ in their length, for each head and weights."""
    lines: dict[tuple[str | None, int | None, str, str], dict[int, list[float]]] = {}
    for run in runs:
        for curve in run.curves if run.is_done else ():
            key = run.model, run.image_size, curve.head, curve.weights
            ends = lines.setdefault(key, {}).setdefault(curve.epochs[-1], [])
            ends.append(curve.top1_pct[-1])
    return [
        [(length, fmean(ends)) for length, ends in sorted(line.items())]
        for line in lines.values()
        if len(line) > 1
    ]


def _undistilled(run: RunCurves) -> Sequence[Published]:
    """The paper's row of a distilled run's model without distillation, if the paper has them."""
    if not run.papers_rows or "_distilled" not in run.model:
        return []
    return published(run.model.replace("_distilled", ""), run.image_size)[:1]


def _add_legend(figure: Figure, runs: list[RunCurves], has_lengths: bool) -> None:
    """Below the panels: runs by colour, heads by line and marker, averaged weights by width."""
    from matplotlib.lines import Line2D

    entry = partial(Line2D, [], [])
    dark = partial(entry, color="#333333")
    curves = [curve for run in runs for curve in run.curves]
    heads = [
        dark(linestyle=line, marker=HEAD_MARKERS[head], markersize=4, label=f"{head} head")
        for head, line in HEAD_LINES.items()
        if any(curve.head == head for curve in curves)
    ]
    handles = [
        entry(color=color, linewidth=3, label=shorten(run.name)) for run, color in _coloured(runs)
    ]
    handles += heads if len(heads) > 1 else []
    if any(curve.weights == "ema" for curve in curves):
        label = "averaged weights" + " (hollow: at the end)" * has_lengths
        handles.append(dark(label=label, **AVERAGED))
    if any(run.papers_rows for run in runs):
        handles.append(entry(color=GREY, marker="o", linestyle="", label="paper"))
    # As many columns as fit, and a taller figure where they are long.
    longest_in = LINE_IN + CHARACTER_IN * max(len(str(handle.get_label())) for handle in handles)
    width_in, height_in = figure.get_size_inches()
    ncols = max(1, min(4, int(width_in / longest_in)))
    num_more = max(0, -(-len(handles) // ncols) - 3)
    figure.set_size_inches(width_in, height_in + 0.18 * num_more)
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols)
