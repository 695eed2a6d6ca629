"""Predicted images a second against the number of GPUs, and what limits them."""

from __future__ import annotations

from pathlib import Path

from fastdeit.benchmarks.budget.predict import NOT_MEASURED, Budget
from fastdeit.benchmarks.budget.scaling import Limit
from fastdeit.text.plots import new_figure, save_png

COLORS: dict[Limit, str] = {
    "compute": "#2f6db5",
    "communication": "#d95f02",
    "loader": "#7570b3",
    "disk": "#8a6d3b",
}
STYLES = (("-", "o"), ("--", "s"))
"""Line and mark of each mode."""


def plot_budget(budget: Budget, path: Path) -> None:
    """Draw both modes, the line of GPUs that lose nothing, and each mark in its limit's colour.

    Args:
        budget: the predictions.
        path: a .png; it appears when it is complete.
    """
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    for (mode, made), (line, mark) in zip(budget.modes, STYLES, strict=True):
        gpus = [each.num_gpus for each in made]
        axes.plot(gpus, [each.img_per_s for each in made], line, color="gray", label=mode)
        for each in made:
            axes.plot([each.num_gpus], [each.img_per_s], mark, color=COLORS[each.limit])
    weak = budget.fixed_each
    linear = [each.img_per_s / each.efficiency_frac for each in weak]
    axes.plot([each.num_gpus for each in weak], linear, ":", color="black", label="linear")
    limits = dict.fromkeys(each.limit for _, made in budget.modes for each in made)
    for limit in limits:
        axes.plot([], [], "o", color=COLORS[limit], label=f"limit: {limit}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([each.num_gpus for each in weak], [str(each.num_gpus) for each in weak])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("images a second")
    axes.set_title(
        f"{budget.recipe} on {budget.machine.name}: {NOT_MEASURED}",
        fontsize=10,
        loc="left",
        parse_math=False,
    )
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, path)
