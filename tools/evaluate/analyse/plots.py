"""The plots of the analyses."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Literal

from fastdeit.paper.published import published
from fastdeit.text.plots import new_figure
from fastdeit.tools.evaluate.analyse.runs import RunCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastdeit.paper.heads import TokenCosines
    from fastdeit.paper.published import Published
    from fastdeit.tools.evaluate.analyse.measures import Cosines

COLORS = ("#2f6db5", "#c0392b", "#2e8b57", "#e07b00", "#7d3cb5", "#8c6d31", "#008b8b", "#d1478c")
HEAD_LINES: dict[str, Literal["--", ":", "-"]] = {"class": "--", "dist": ":", "joint": "-"}
HEAD_MARKERS = {"class": "s", "dist": "^", "joint": "o"}
PAPERS = "#8a8a8a"
LINE_IN, CHARACTER_IN = 0.6, 0.07
"""Inches of a legend's entry in 8 points: its line and the spaces around, a character."""
MAX_TITLE = 34
"""Letters of a name in a plot."""


def heat_map(
    titles: list[str],
    matrix: list[list[float]],
    papers: list[list[float | None]],
    what: str,
    note: str,
) -> Figure:
    """Draw who disagrees with whom how often, with the values in the cells.

    Args:
        titles: V names.
        matrix: V x V, 0 to 1.
        papers: the paper's values, None where it has none.
        what: the images, in words.
        note: what the brackets are; empty without any.
    """
    side = len(titles)
    names = [shorten(title) for title in titles]
    cell = 0.85 if any(value is not None for row in papers for value in row) else 0.65
    room = 0.075 * max(map(len, names)) + 0.5
    figure = new_figure(
        max(6.0, cell * side + room + 1.1), max(3.4, 0.55 * side + 0.75 * room + 1.0)
    )
    axes = figure.subplots()
    highest = max(max(row) for row in matrix) or 1.0
    image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for down, row in enumerate(matrix):
        for across, value in enumerate(row):
            if down == across:
                continue
            paper = papers[down][across]
            axes.text(
                across,
                down,
                f"{value:.3f}" + ("" if paper is None else f"\n({paper:.3f})"),
                ha="center",
                va="center",
                fontsize=8.5,
                linespacing=1.25,
                color="white" if value > 0.55 * highest else "#1a1a1a",
            )
    axes.set_xticks(range(side), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(side), names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("fraction of images decided differently", fontsize=9)
    bar.outline.set_visible(False)
    text = f"Disagreement over {what}" + (f"\n{note}" if note else "")
    figure.suptitle(text, fontsize=10, x=0.01, ha="left", parse_math=False)
    return figure


def cosine_plot(name: str, found: Cosines, paper: TokenCosines) -> Figure:
    """Draw the cosine of the two tokens, layer by layer, beside the paper's two values.

    Args:
        name: of the model.
        found: what was computed.
        paper: what the paper found.
    """
    figure = new_figure(max(6.4, 0.42 * len(found.names) + 2.2), 4.2)
    axes = figure.subplots()
    places = [*range(1, len(found.names) + 1)]
    low = [mean - each for mean, each in zip(found.means, found.deviations, strict=True)]
    high = [mean + each for mean, each in zip(found.means, found.deviations, strict=True)]
    axes.fill_between(places, low, high, color=COLORS[0], alpha=0.18, linewidth=0)
    axes.plot(
        places,
        found.means,
        color=COLORS[0],
        marker="o",
        markersize=4,
        label="embeddings: mean over the images, and a standard deviation",
    )
    axes.plot(
        [0], [found.learned], color=COLORS[1], marker="D", linestyle="", label="learned tokens"
    )
    axes.scatter(
        [0, places[-2]],
        [paper.learned, paper.last],
        color=PAPERS,
        marker="x",
        s=45,
        linewidths=1.8,
        zorder=3,
        label=f"paper, DeiT-B: {paper.learned:.2f} learned, {paper.last:.2f} last layer",
    )
    names = ["learned", *(each.removeprefix("block ") for each in found.names)]
    axes.set_xticks([0, *places], names, fontsize=9)
    axes.set_xlabel(
        "after block (input: with position embeddings; norm: after the final normalisation)"
    )
    axes.set_ylabel("cosine of class and distillation token")
    axes.set_ylim(min(0.0, *low, found.learned) - 0.05, 1.05)
    axes.set_title(
        f"{shorten(name)}: {found.num_images:,} images", loc="left", fontsize=10, parse_math=False
    )
    tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc="best")
    return figure


def epochs_plot(runs: list[RunCurves], papers: dict[str, list[Published]]) -> Figure:
    """Draw accuracy while training; where runs differ in length, against their lengths beside it.

    Args:
        runs: what was read.
        papers: the paper's rows of each run's model, by the run's name.
    """
    has_lengths = any(papers.values()) or any(len(line) > 1 for line in lines_of(runs))
    figure = new_figure(11.5 if has_lengths else 7.2, 4.8)
    panels = figure.subplots(1, 2 if has_lengths else 1, squeeze=False)[0]
    axes = panels[0]
    for number, run in enumerate(runs):
        for curve in run.curves:
            is_short = len(curve.epochs) <= 15
            axes.plot(
                curve.epochs,
                curve.top1_pct,
                color=COLORS[number % len(COLORS)],
                linestyle=HEAD_LINES.get(curve.head, "-."),
                linewidth=1.4 if curve.weights == "raw" else 2.4,
                alpha=1.0 if curve.weights == "raw" else 0.45,
                marker=HEAD_MARKERS.get(curve.head, "d") if is_short else "",
                markersize=4,
            )
    axes.set_xlabel("epochs done")
    axes.set_ylabel("top-1, %")
    axes.set_title("while training", loc="left", fontsize=10)
    whole_numbers(axes)
    tidy(axes)
    if has_lengths:
        draw_lengths(panels[1], runs, papers)
    add_legend(figure, runs, any(papers.values()), has_lengths)
    return figure


def draw_lengths(axes: Axes, runs: list[RunCurves], papers: dict[str, list[Published]]) -> None:
    """Figure 3 itself: accuracy at the end of runs, against how long they are."""
    shown: set[str] = set()
    for rows in papers.values():
        for row in rows:
            if row.name in shown or row.epochs is None:
                continue
            shown.add(row.name)
            marker = HEAD_MARKERS.get(row.head, "d")
            axes.scatter([row.epochs], [row.top1_pct], color=PAPERS, marker=marker, s=26, zorder=2)
            axes.annotate(
                row.name.partition(",")[0] if row.table == "Table 5" else "",
                (row.epochs, row.top1_pct),
                (-7, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=PAPERS,
            )
    for number, run in enumerate(runs):
        if not run.is_done:
            continue
        for curve in run.curves:
            is_raw = curve.weights == "raw"
            color = COLORS[number % len(COLORS)]
            axes.scatter(
                [curve.epochs[-1]],
                [curve.top1_pct[-1]],
                edgecolors=color,
                facecolors=color if is_raw else "none",
                marker=HEAD_MARKERS.get(curve.head, "d"),
                s=36,
                zorder=3,
            )
    for points in lines_of(runs):
        axes.plot(*zip(*points, strict=True), color="#555555", linewidth=0.7, zorder=1)
    for run in runs:
        plain = undistilled(run) if papers[run.name] else None
        if plain is not None and plain.name not in shown:
            shown.add(plain.name)
            axes.axhline(plain.top1_pct, color=PAPERS, linestyle=":", linewidth=1.2, zorder=1)
            axes.annotate(
                f"{plain.name} of the paper, no distillation",
                (0.99, plain.top1_pct),
                (0, -4),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=7.5,
                color=PAPERS,
            )
    axes.set_xlabel("epochs of the whole run")
    axes.set_ylabel("top-1, %")
    axes.set_title("at the end (Figure 3)", loc="left", fontsize=10)
    axes.margins(x=0.2, y=0.12)
    whole_numbers(axes)
    tidy(axes)


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


def undistilled(run: RunCurves) -> Published | None:
    """The paper's row of a distilled run's model without distillation."""
    if run.model is None or "_distilled" not in run.model or run.image_size is None:
        return None
    rows = published(run.model.replace("_distilled", ""), run.image_size)
    return rows[0] if rows else None


def add_legend(figure: Figure, runs: list[RunCurves], has_papers: bool, has_lengths: bool) -> None:
    """Below the panels: runs by colour, heads by line and marker, averaged weights by width."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLORS[n % len(COLORS)], linewidth=3, label=shorten(run.name))
        for n, run in enumerate(runs)
    ]
    curves = [curve for run in runs for curve in run.curves]
    heads = [head for head in HEAD_LINES if any(curve.head == head for curve in curves)]
    if len(heads) > 1:
        handles += [
            Line2D(
                [],
                [],
                color="#333333",
                linestyle=HEAD_LINES[head],
                marker=HEAD_MARKERS[head],
                markersize=4,
                label=f"{head} head",
            )
            for head in heads
        ]
    if any(curve.weights == "ema" for curve in curves):
        handles.append(
            Line2D(
                [],
                [],
                color="#333333",
                linewidth=2.4,
                alpha=0.45,
                label="averaged weights" + " (hollow: at the end)" * has_lengths,
            )
        )
    if has_papers:
        handles.append(Line2D([], [], color=PAPERS, marker="o", linestyle="", label="paper"))
    # As many columns as fit, and a taller figure where they are long.
    longest_in = LINE_IN + CHARACTER_IN * max(len(str(handle.get_label())) for handle in handles)
    width_in, height_in = figure.get_size_inches()
    ncols = max(1, min(4, int(width_in / longest_in)))
    num_more = max(0, -(-len(handles) // ncols) - 3)
    figure.set_size_inches(width_in, height_in + 0.18 * num_more)
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def whole_numbers(axes: Axes) -> None:
    """Ticks of epochs are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def tidy(axes: Axes) -> None:
    """A grid behind what is drawn, and no box around it."""
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def shorten(name: str) -> str:
    """A name that fits; the end tells runs of a path from each other."""
    return name if len(name) <= MAX_TITLE else "..." + name[3 - MAX_TITLE :]
