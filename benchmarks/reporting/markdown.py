"""Rows as Markdown: a table of a case, its footnotes, the parts of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fastdeit.benchmarks.reporting.table import MORE, Column
from fastdeit.measured.rows import Row
from fastdeit.text.figures import rounded

EXTRA = (
    Column("px", "{}", lambda row: row.image_size),
    *(column for column in MORE if column.title not in ("MFU", "paper V100", "x V100")),
)
"""Columns where they are known."""


def times(value: float) -> str:
    """A ratio: two digits behind the point, none of them needed above 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def percent(part: float) -> str:
    """A part of 1."""
    return f"{100 * part:.0f}%" if part >= 0.1 else f"{100 * part:.2g}%"


def escaped(text: str) -> str:
    """Text that stays text in a cell of a table."""
    plain = " ".join(text.split())
    for letter, instead in {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.items():
        plain = plain.replace(letter, instead)
    for letter in "\\|*`[]$":
        plain = plain.replace(letter, f"\\{letter}")
    return plain


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are escaped already, with an empty line behind it."""
    rule = "|".join("---" for _ in header)
    return [_line(header), f"|{rule}|", *map(_line, lines), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


class Footnotes:
    """Texts below a table, numbered as they are asked for."""

    def __init__(self) -> None:
        """None yet."""
        self._numbers: dict[str, int] = {}

    def mark(self, *texts: str | None) -> str:
        """The numbers of these texts, for a cell; nothing for those that are None."""
        marks = [
            str(self._numbers.setdefault(text, len(self._numbers) + 1))
            for text in dict.fromkeys(texts)
            if text
        ]
        return f" <sup>{', '.join(marks)}</sup>" if marks else ""

    @property
    def lines(self) -> list[str]:
        """A list for below the table, with an empty line behind it."""
        if not self._numbers:
            return []
        return [*(f"{mark}. {escaped(text)}" for text, mark in self._numbers.items()), ""]


@dataclass(frozen=True, slots=True)
class Cells:
    """A column of a table in which rows may have nothing."""

    title: str
    """Above it."""
    of: Callable[[Row], str | None]
    """The cell; None is n/a."""


def case_lines(rows: list[Row]) -> list[str]:
    """A case as a table with its footnotes, then the parts of its steps.

    Args:
        rows: of one case, measured in one environment.

    Returns:
        Lines of Markdown. A column that no row has anything for is left out and named below.
    """
    notes = Footnotes()
    always = (
        Cells("what", lambda row: escaped(row.name) + notes.mark(row.note)),
        Cells("median", lambda row: f"{rounded(row.median)} {escaped(row.unit)}"),
        Cells("p20 to p80", spread),
        Cells("n", lambda row: str(row.n)),
    )
    optional = [
        *ratio_columns(rows),
        Cells("of the bound", lambda row: bound(row, notes)),
        Cells("MFU", lambda row: share(row.mfu, notes.mark(row.peak_what))),
        Cells("the paper's", lambda row: paper(row, notes)),
        *(known(column, rows) for column in EXTRA),
    ]
    # Cell by cell, for the footnotes are numbered as they are met.
    filled = [{id(cells): cells.of(row) or "n/a" for cells in (*always, *optional)} for row in rows]
    used = [cells for cells in optional if any(line[id(cells)] != "n/a" for line in filled)]
    columns = [*always, *used]
    lines = table(
        [cells.title for cells in columns],
        [[line[id(cells)] for cells in columns] for line in filled],
    )
    missing = [
        *([] if any(row.all_ratios for row in rows) else ["baseline"]),
        *([] if any(row.bound is not None for row in rows) else ["bound"]),
    ]
    if missing:
        lines += [f"No {' and no '.join(missing)}.", ""]
    return [*lines, *notes.lines, *phase_lines(rows)]


def ratio_columns(rows: list[Row]) -> list[Cells]:
    """A column for each baseline; one for all where each row has but its own."""
    names = list(dict.fromkeys(name for row in rows for name in row.all_ratios))
    if len(names) > 1 and all(len(row.all_ratios) <= 1 for row in rows):
        return [
            Cells("ratio", lambda row: main_ratio(row, row.baseline or row.name, names)),
            Cells("to", lambda row: own_baseline(row, names)),
        ]

    def column(name: str) -> Cells:
        return Cells(f"x {escaped(name)}", lambda row: main_ratio(row, name, names))

    return [column(name) for name in names]


def own_baseline(row: Row, baselines: list[str]) -> str | None:
    """What the row is compared with."""
    if row.baseline is not None:
        return escaped(row.baseline)
    return "itself" if row.name in baselines else None


def main_ratio(row: Row, baseline: str, baselines: list[str]) -> str | None:
    """The ratio to a baseline, with its spread where that is known; 1 for the baseline itself."""
    if row.name == baseline and baseline in baselines:
        return "1"
    if baseline not in row.all_ratios:
        return None
    text = times(row.all_ratios[baseline])
    if baseline != row.baseline or row.ratio_p20 is None or row.ratio_p80 is None or row.n == 1:
        return text
    return f"{text} ({times(row.ratio_p20)} to {times(row.ratio_p80)})"


def spread(row: Row) -> str | None:
    """From p20 to p80; one round has none."""
    return None if row.n == 1 else f"{rounded(row.p20)} to {rounded(row.p80)}"


def bound(row: Row, notes: Footnotes | None = None) -> str | None:
    """Which part of which bound, with a footnote that says what it is; without `notes` in words."""
    if row.bound is None or row.frac_of_bound is None:
        return None
    what = row.bound_what or ""
    end = f": {escaped(what)}" if notes is None else notes.mark(what)
    return f"{percent(row.frac_of_bound)} of {rounded(row.bound)}{end}"


def share(part: float | None, mark: str) -> str | None:
    """A part of 1 with its footnote."""
    return None if part is None else f"{percent(part)}{mark}"


def paper(row: Row, notes: Footnotes) -> str | None:
    """What the paper gives, and how many times that this is."""
    if row.paper is None:
        return None
    ratio = "" if row.times_paper is None else f"; x {times(row.times_paper)}"
    return f"{rounded(row.paper)}{ratio}{notes.mark(row.paper_what)}"


def known(column: Column, rows: list[Row]) -> Cells:
    """A column of the terminal's table; left out where it says the same of every row."""
    values = {column.of(row) for row in rows}
    is_one = len(values) == 1 and len(rows) > 1 and column.title in ("batch", "px")

    def cell(row: Row) -> str | None:
        return None if is_one or column.of(row) is None else column.text(row)

    return Cells(column.title, cell)


def phase_lines(rows: list[Row]) -> list[str]:
    """The parts of the steps, in milliseconds; nothing without any."""
    timed = [row for row in rows if row.phases_ms]
    names = list(dict.fromkeys(name for row in timed for name in row.phases_ms))
    if not timed:
        return []
    lines = []
    for row in timed:
        parts = [row.phases_ms.get(name) for name in names]
        cells = ["n/a" if part is None else rounded(part) for part in parts]
        lines.append([escaped(row.name), *cells, rounded(sum(row.phases_ms.values()))])
    return [
        "Parts of a step in ms, from a pass of its own in which nothing overlaps:",
        "",
        *table(["what", *map(escaped, names), "sum"], lines),
    ]
