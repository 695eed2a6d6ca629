"""Figure 1 of the paper, redrawn: accuracy against throughput, ours beside the paper's V100.

Rates are measured elsewhere (`fastdeit bench table5`); here they meet the paper's rows and, where
there are some, checkpoints of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdeit.measured.rows import Row
from fastdeit.paper import PaperRow, rows_of_architecture, table5
from fastdeit.paper.published import stem
from fastdeit.paper.tables import TWINS
from fastdeit.text.plots import house_style, new_figure, note, plain_log, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

PAPERS, OWN = "#b4b4b4", "#111111"


@dataclass(frozen=True, slots=True)
class Series:
    """Models of one kind, joined by a line."""

    title: str
    """In the legend."""
    prefix: str
    """What its models' names begin with; it is left out beside the points."""
    color: str
    marker: str
    line: str = "-"
    offset: tuple[int, int] = (5, 3)
    """From a point to its label, in points."""


SERIES = (
    Series("ResNet", "ResNet-", "#8c6d31", "s", "--", (-5, -3)),
    Series("RegNetY", "RegNetY-", "#2e8b57", "s", "--", (5, -4)),
    Series("EfficientNet", "EfficientNet-", "#e07b00", "s", "--", (-5, -3)),
    Series("KDforAA", "KDforAA-", "#a0522d", "s", "--", (-5, -3)),
    Series("ViT", "ViT-", "#7f7f9f", "o", "-", (5, -4)),
    Series("DeiT", "DeiT-", "#2f6db5", "o"),
    Series("DeiT distilled", "DeiT-", "#c0392b", "o"),
    Series("DeiT distilled, 1000 epochs", "DeiT-", "#7d3cb5", "o"),
)
"""Convnets have squares and dashed lines, transformers circles."""


def _series_of(row: PaperRow) -> Series:
    if row.name.startswith("DeiT-"):
        distilled = "1000" in row.name or "distilled" in row.name
        return SERIES[5 + distilled + ("1000" in row.name)]
    return next(each for each in SERIES if row.name.startswith(each.prefix))


def _short_name(row: PaperRow) -> str:
    """What stands beside a point: the name without what its colour says."""
    name = row.name.removeprefix(_series_of(row).prefix)
    return name.replace(" distilled", "").replace(", 1000 epochs", "")


@dataclass(frozen=True, slots=True)
class Measured:
    """A rate of inference."""

    model: str
    """timm's name."""
    image_size: int
    """Side of the images in pixels."""
    protocol: str
    """How it was measured, such as fp32."""
    img_per_s: float

    @property
    def architecture(self) -> tuple[str, int]:
        """What decides the rate: see `architecture_of`."""
        return architecture_of(self.model, self.image_size)


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint of one's own."""

    label: str
    """What stands beside it."""
    img_per_s: float
    top1_pct: float


def architecture_of(timm: str, image_size: int) -> tuple[str, int]:
    """A model at a size of image, whatever its weights and the size in timm's name."""
    return stem(TWINS.get(timm, timm)), image_size


def papers_rates(measured: Iterable[Measured]) -> dict[str, dict[str, float]]:
    """The rate of every row of Table 5 that a measurement stands for, by protocol and name."""
    found: dict[str, dict[str, float]] = {}
    for each in measured:
        for one in rows_of_architecture(each.model, each.image_size):
            found.setdefault(each.protocol, {})[one.name] = each.img_per_s
    return found


@house_style()
def plot_panels(
    panels: dict[str, dict[str, float]],
    path: Path,
    points: dict[str, list[Point]] | None = None,
) -> None:
    """Draw a panel for each protocol: the paper's points, and in colour ours.

    `panels` are from `papers_rates`, `points` checkpoints of one's own, by protocol; without both
    nothing is drawn. The .png appears when it is complete.
    """
    points = points or {}
    protocols = [*dict.fromkeys((*panels, *points))]
    if not protocols:
        return
    columns = min(2, len(protocols))
    lines = math.ceil(len(protocols) / columns)
    figure = new_figure(8.5 * columns, 6.2 * lines + 0.5)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, protocol in zip(grid, protocols, strict=False):
        draw(axes, protocol, panels.get(protocol, {}), points.get(protocol, []))
    for axes in grid[len(protocols) :]:
        axes.set_visible(False)
    save_png(figure, path, dpi=110)


@house_style()
def draw(axes: Axes, protocol: str, rates: dict[str, float], points: list[Point]) -> None:
    """Draw the panel of a protocol; `rates` are images a second by the names of Table 5's rows."""
    for series in SERIES:
        models = [row for row in table5() if _series_of(row) == series]
        ours = [row for row in models if row.name in rates]
        papers_rates = {row.name: row.throughput for row in models}
        _draw_series(axes, series, models, papers_rates, PAPERS, 0.9, 16, 1)
        if ours:
            shown = _draw_series(axes, series, ours, rates, series.color, 1.2, 26, 3)
            shown.set_label(series.title)
        for row in ours:
            offset = series.offset if _is_step(row) else (-5, 3)
            place, text = (rates[row.name], row.top1), _short_name(row)
            note(axes, text, place, offset, fontsize=8, color=series.color, zorder=5, **_halo())
    for point in points:
        bold = {"fontsize": 8, "fontweight": "bold", "color": OWN, "zorder": 7, **_halo()}
        note(axes, point.label, (point.img_per_s, point.top1_pct), (-6, -5), **bold)
    if points:
        where = [point.img_per_s for point in points], [point.top1_pct for point in points]
        label = "own checkpoints, accuracy evaluated"
        axes.scatter(*where, color=OWN, marker="*", s=110, zorder=6, label=label)
    papers = "at the same height: paper, V100, fp32" if rates else "paper, V100, fp32"
    axes.scatter([], [], color=PAPERS, marker="D", s=16, label=papers)
    plain_log(axes.xaxis)
    axes.margins(x=0.08)
    axes.set_title(f"{protocol}, measured here", fontsize=11)
    axes.set_xlabel("images per second")
    axes.set_ylabel(
        "top-1, % (stars: evaluated, others: the paper's)"
        if points
        else "ImageNet top-1 of the paper, %"
    )
    axes.tick_params(labelbottom=True, labelleft=True)
    # A star of one's own may lie anywhere, so the legend goes below.
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.1), "ncols": 4}
    corner = below if points else {"loc": "lower left"}
    axes.legend(title="squares: convnets, circles: transformers", **corner)


def _is_step(row: PaperRow) -> bool:
    """Whether a row is a step of its series' line, not other training of an architecture."""
    return " RA" not in row.name


def _draw_series(
    axes: Axes,
    series: Series,
    rows: list[PaperRow],
    rates: dict[str, float],
    color: str,
    width: float,
    size: int,
    zorder: int,
) -> PathCollection:
    line = [row for row in rows if _is_step(row)]
    places = [rates[row.name] for row in line], [row.top1 for row in line]
    axes.plot(*places, color=color, linestyle=series.line, linewidth=width, zorder=zorder)
    places = [rates[row.name] for row in rows], [row.top1 for row in rows]
    return axes.scatter(*places, color=color, marker=series.marker, s=size, zorder=zorder + 1)


def _halo() -> dict[str, Any]:
    """White around letters that may cross a line."""
    from matplotlib.patheffects import withStroke

    return {"path_effects": [withStroke(linewidth=2, foreground="white")]}


def rates_by_protocol(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The rate of every row of Table 5 that a measurement stands for, by protocol and name."""
    return papers_rates(
        Measured(row.model, row.image_size, str(row.settings["protocol"]), row.median)
        for row in rows
        if row.model is not None and row.image_size is not None and "protocol" in row.settings
    )


def plot_figure1(rows: list[Row], path: Path) -> None:
    """Draw a panel for each protocol from rows of `bench table5`, as `plot_panels` does.

    Rows without a model of Table 5 are left out, and without any nothing is drawn.
    """
    plot_panels(rates_by_protocol(rows), path)
