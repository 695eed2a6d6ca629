"""Figure 1 of the paper from rows of `fastdeit bench table5`; the drawing is fastdeit.figure1."""

from __future__ import annotations

from pathlib import Path

from fastdeit.benchmarks.rows import Row
from fastdeit.figure1 import Measured, papers_rates, plot_panels


def rates_by_protocol(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The rate of every row of Table 5 that a measurement stands for, by protocol and name."""
    return papers_rates(
        Measured(row.model, row.image_size, str(row.settings["protocol"]), row.median)
        for row in rows
        if row.model is not None and row.image_size is not None and "protocol" in row.settings
    )


def plot_figure1(rows: list[Row], path: Path) -> None:
    """Draw a panel for each protocol: the paper's points, and in colour ours.

    Args:
        rows: of `bench table5`; those without a model of Table 5 are left out, and without any
            nothing is drawn.
        path: a .png; it appears when it is complete.
    """
    plot_panels(rates_by_protocol(rows), path)
