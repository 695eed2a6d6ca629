"""A run of `fastdeit bench`: rows are kept as they come, so that a stop loses only the last."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from fastdeit import UserError
from fastdeit.benchmarks.harness import Effort
from fastdeit.benchmarks.plots import plot_bars
from fastdeit.benchmarks.reporting.report import report_text
from fastdeit.benchmarks.rows import ROWS, Kept, Row, read_rows, write_rows
from fastdeit.benchmarks.table import format_table
from fastdeit.environment import describe_environment
from fastdeit.files import replace_file
from fastdeit.progress import progress, say

REPORT = "report.md"
"""Of all rows in an --out folder."""


class BenchRun:
    """Rows of one call, their environment, their files and the progress bar."""

    def __init__(self, out: Path | None, device: torch.device) -> None:
        """Look at the folder, before anything is measured.

        Args:
            out: folder for rows.jsonl, report.md and a chart of each benchmark; rows of other
                measurements there stay, older ones of the same are replaced. None keeps nothing.
            device: where it is measured.

        Raises:
            UserError: the folder holds anything but what a benchmark wrote.
            OSError: it cannot be made or written to.
        """
        self.environment = {**describe_environment(), "device": str(device)}
        self.rows: list[Row] = []
        """What this run measured, in order."""
        self.failed: dict[str, str] = {}
        """What could not be measured, and why."""
        self.left_out: dict[str, str] = {}
        """What was not to be measured here, and why."""
        self.out = out
        """Folder of the rows, or None."""
        self._before = [] if out is None else open_folder(out)
        self._num_known = 0
        self._bar = progress(None, "measuring", unit="rounds")

    def __enter__(self) -> BenchRun:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.close()

    def effort(self, rounds: int, seconds: float | None = None) -> Effort:
        """How long to measure, with this run's progress bar."""
        return Effort(rounds, seconds, self.on_round)

    @property
    def on_round(self) -> Callable[[], None]:
        """What moves the bar by a round."""

        def on_round() -> None:
            self._bar.update()

        return on_round

    def leave_out(self, what: str, why: str) -> None:
        """Say that something is not measured, which is no failure."""
        self.left_out[what] = why

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, at once."""
        self.rows += rows
        if self.out is not None:
            own = {row.key for row in self.rows}
            others = [kept for kept in self._before if kept.row.key not in own]
            mine = [Kept(row, self.environment) for row in self.rows]
            write_rows(self.out / ROWS, [*others, *mine])

    def known(self, case: str, name: str, **settings: Any) -> Row | None:
        """The row of an earlier run in the same folder, in the same environment."""
        for kept in self._before:
            row = kept.row
            if (row.case, row.name, row.settings) == (case, name, settings) and self._is_here(kept):
                self._num_known += 1
                return row
        return None

    def _is_here(self, kept: Kept) -> bool:
        then = {**kept.environment, "date": None}
        return then == {**self.environment, "date": None}

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Measure something; if it cannot be, say so in one line and go on.

        Args:
            what: it, for the line.
        """
        try:
            yield
        except UserError as error:
            self.failed[what] = str(error)
            say(f"not measured: {what}: {error}")

    def end(self, shown: Sequence[Row] | None = None) -> int:
        """Draw the charts, print a table on stderr and all rows as one JSON object on stdout.

        Args:
            shown: rows of the table; all unless given.

        Returns:
            The exit code: 0, or 1 if something could not be measured.
        """
        self._bar.close()
        if self.out is not None and (self.out / ROWS).exists():
            text = report_text({ROWS: read_rows(self.out / ROWS)})
            replace_file(self.out / REPORT, text.encode())
            for stem in dict.fromkeys(row.file_stem for row in self.rows):
                rows = [row for row in self.rows if row.file_stem == stem]
                plot_bars(rows, self.out / f"{stem}.png")
        rows = self.rows if shown is None else list(shown)
        if rows:
            print(tables_of(rows), file=sys.stderr)
        for what, why in self.left_out.items():
            print(f"left out: {what}: {why}", file=sys.stderr)
        if self._num_known:
            there = f"{self._num_known} rows were there already"
            print(f"{there}; another --out than {self.out} measures again", file=sys.stderr)
        facts = {
            "rows": [asdict(row) for row in self.rows],
            "failed": self.failed,
            "left_out": self.left_out,
            "environment": self.environment,
        }
        print(json.dumps(facts))
        return 1 if self.failed else 0


def open_folder(out: Path) -> list[Kept]:
    """The rows that an --out folder holds; the folder is made.

    Raises:
        UserError: it holds something else.
        OSError: it cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out must be a folder. Found: the file {out}. Give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    if (out / ROWS).exists():
        return read_rows(out / ROWS)
    foreign = next(out.iterdir(), None)
    if foreign is not None:
        raise UserError(
            "out must be a new or empty folder, or that of earlier measurements. Found: "
            f"{foreign}. Give another --out."
        )
    return []


def tables_of(rows: Sequence[Row]) -> str:
    """A table for each benchmark, so that its columns are its own."""
    parts = []
    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        parts.append(format_table(own))
        parts += [
            f"{row.case}, one after another: {said}" for row in own if (said := parts_of(row))
        ]
        parts.append("")
    return "\n".join(parts[:-1])


def parts_of(row: Row) -> str:
    """The parts of a step in words, or nothing."""
    return ", ".join(f"{name} {took:.3g} ms" for name, took in row.phases_ms.items())
