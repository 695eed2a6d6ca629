"""The harness: warm-up, repeats, order of the cases, environment, and how a row is written.

A case is a function that does one round of work and returns how many units it did; it must have
waited for the device before it returns. Cases that are compared take turns, so that a machine that
slows down slows all of them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.files import replace_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measured rate."""

    case: str
    """Which benchmark it belongs to."""
    name: str
    """What was measured."""
    unit: str
    """What a rate counts, such as img/s."""
    n: int
    """How many timed rounds."""
    median: float
    """Median rate of the rounds."""
    p20: float
    """20th percentile of the rates."""
    p80: float
    """80th percentile of the rates."""
    baseline: str | None = None
    """Name of the row that this one is compared with."""
    ratio: float | None = None
    """Median over rounds of this rate over the baseline's in the same round."""
    bound: float | None = None
    """A rate that physics or another stage does not let it exceed."""
    bound_what: str | None = None
    """What that bound is."""
    frac_of_bound: float | None = None
    """median / bound."""
    note: str | None = None
    """What a reader must know."""
    ratios: dict[str, float] = field(default_factory=dict)
    """As `ratio`, to each of several baselines."""
    step_ms: float | None = None
    """Milliseconds of a training step, at the median rate."""
    mfu: float | None = None
    """Model FLOPs utilisation: part of the device's peak that the model's operations took."""
    peak_what: str | None = None
    """What that peak is."""
    data_wait_frac: float | None = None
    """Part of the time in which the loader was waited for; median of the rounds."""
    gpu_memory_gib: float | None = None
    """The most memory that its tensors took on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Something to measure."""

    name: str
    """As in `Row.name`."""
    run: Callable[[], int]
    """One round; returns the number of units done."""
    note: str | None = None
    """As in `Row.note`."""
    before: Callable[[], None] = lambda: None
    """Done before each round, untimed."""
    after: Callable[[], None] = lambda: None
    """Done after each round, untimed."""

    def time(self) -> float:
        """Do a round; return its units a second."""
        self.before()
        started = time.perf_counter()
        units = self.run()
        seconds = time.perf_counter() - started
        self.after()
        return units / seconds


def measure(
    case: str,
    unit: str,
    cases: list[Case],
    rounds: int,
    baselines: Sequence[str] = (),
    on_round: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Time cases in turn: one untimed round each, then `rounds` times A B C, A B C, ...

    Args:
        case: which benchmark.
        unit: what the rates count.
        cases: what to time.
        rounds: timed rounds of each case.
        baselines: names of the cases that the others are compared with, the main one first.
        on_round: called after each round of one case, for a progress bar.

    Returns:
        A row for each case, in their order.
    """
    for one in cases:
        one.time()
        on_round()
    rates: dict[str, list[float]] = {one.name: [] for one in cases}
    for _ in range(rounds):
        for one in cases:
            rates[one.name].append(one.time())
            on_round()
    rows = []
    for one in cases:
        own = rates[one.name]
        ratios = {
            baseline: statistics.median(
                rate / base for rate, base in zip(own, rates[baseline], strict=True)
            )
            for baseline in baselines
            if one.name != baseline
        }
        baseline = next(iter(baselines), None)
        rows.append(
            Row(
                case=case,
                name=one.name,
                unit=unit,
                n=rounds,
                median=statistics.median(own),
                p20=percentile(own, 0.2),
                p80=percentile(own, 0.8),
                baseline=None if one.name == baseline else baseline,
                ratio=None if baseline is None else ratios.get(baseline),
                note=one.note,
                ratios=ratios,
            )
        )
    return rows


def with_bound(row: Row, bound: float, what: str) -> Row:
    """The row beside a rate that it cannot exceed."""
    return replace(row, bound=bound, bound_what=what, frac_of_bound=row.median / bound)


def percentile(values: list[float], fraction: float) -> float:
    """A percentile by linear interpolation."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def write_rows(path: Path, rows: Iterable[Row], environment: dict[str, Any]) -> None:
    """Write rows as JSON lines, each with its environment; the file appears when it is complete."""
    lines = [json.dumps({**asdict(row), "environment": environment}) for row in rows]
    replace_file(path, ("\n".join(lines) + "\n").encode())


def check_rows_file(path: Path) -> None:
    """Make sure that rows can be written to a path, before anything is measured.

    Raises:
        UserError: there is a file that is no earlier rows.
        OSError: the folder cannot be made or written to.
    """
    try:
        first = path.read_text(encoding="utf-8").split("\n")[0]
        is_rows = "case" in json.loads(first)
    except FileNotFoundError:
        replace_file(path, b"")
        path.unlink()
        return
    except (OSError, ValueError, TypeError):
        is_rows = False
    if not is_rows:
        raise UserError(
            f"out must be a new file or earlier rows. Found: {path}. Give another --out."
        )


@dataclass(frozen=True, slots=True)
class Column:
    """A figure that some rows have."""

    title: str
    """Above it."""
    form: str
    """How it is written, for str.format."""
    of: Callable[[Row], float | None]
    """The figure of a row."""

    def text(self, row: Row) -> str:
        """What the table shows."""
        value = self.of(row)
        return "n/a" if value is None else self.form.format(value)


MORE = (
    Column("ms/step", "{:,.4g}", lambda row: row.step_ms),
    Column("MFU", "{:.1%}", lambda row: row.mfu),
    Column("data wait", "{:.0%}", lambda row: row.data_wait_frac),
    Column("GPU GiB", "{:.1f}", lambda row: row.gpu_memory_gib),
)
"""Columns that a table has where they are known."""


def format_table(rows: list[Row]) -> str:
    """Rows as a table for a terminal."""
    baselines = list(dict.fromkeys(name for row in rows for name in row.ratios))
    # A column for each baseline, where rows are compared with several.
    has_several = any(len(row.ratios) > 1 for row in rows)
    if has_several:
        ratio_names = [f"x {name.split(' (')[0]}" for name in baselines]
    else:
        ratio_names = ["ratio"]
    more = [column for column in MORE if any(column.of(row) is not None for row in rows)]
    header = ["case", "what", "median", "p20 to p80", "n", *ratio_names, "of bound"]
    lines = [[*header, *(column.title for column in more)]]
    for row in rows:
        if has_several:
            ratios = [row.ratios.get(name) for name in baselines]
        else:
            ratios = [row.ratio]
        lines.append(
            [
                row.case,
                row.name,
                f"{row.median:.4g} {row.unit}",
                f"{row.p20:.4g} to {row.p80:.4g}",
                str(row.n),
                *("n/a" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                "n/a" if row.frac_of_bound is None else f"{100 * row.frac_of_bound:.0f}%",
                *(column.text(row) for column in more),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
