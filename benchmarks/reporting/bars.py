"""A bar chart of rows."""

from __future__ import annotations

from pathlib import Path

from fastdeit.measured.rows import Row
from fastdeit.text.figures import rounded
from fastdeit.text.plots import COLORS, GREY, house_style, new_figure, note, save_png


@house_style({"axes.grid": False, "axes.titlesize": 9})
def plot_bars(rows: list[Row], path: Path) -> None:
    """Draw medians as bars, with whiskers from p20 to p80 and ticks at the bounds.

    A panel for each case; ours are those whose name begins with fastdeit.
    """
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    heights = [len(panel) + 1.5 for panel in by_case.values()]
    figure = new_figure(9, 0.32 * sum(heights) + 0.4)
    panels = figure.subplots(len(by_case), squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (case, panel) in zip(panels[:, 0], by_case.items(), strict=True):
        places = range(len(panel))
        medians = [row.median for row in panel]
        spread = [
            [row.median - row.p20 for row in panel],
            [row.p80 - row.median for row in panel],
        ]
        colors = [COLORS[0] if row.name.startswith("fastdeit") else GREY for row in panel]
        axes.barh(places, medians, xerr=spread, color=colors, height=0.7, ecolor="black")
        for place, row in zip(places, panel, strict=True):
            if row.bound is not None:
                axes.plot([row.bound] * 2, [place - 0.42, place + 0.42], color="firebrick")
            # A bound that lies behind the number does not cross it out.
            blank = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            at = (row.p80, place)
            note(axes, rounded(row.median), at, (4, 0), va="center", fontsize=8, bbox=blank)
        axes.set_yticks(places, [row.name for row in panel], fontsize=8)
        axes.invert_yaxis()
        highest = max(max(row.p80, row.bound or 0) for row in panel)
        axes.set_xlim(0, 1.08 * highest)
        units = " and ".join(dict.fromkeys(row.unit for row in panel))
        bound = "; red: the bound" if any(row.bound is not None for row in panel) else ""
        axes.set_title(f"{case}: {units}{bound}")
    save_png(figure, path)
