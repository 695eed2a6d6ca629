"""Rows as tables: for a terminal, and in Markdown with footnotes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fastdeit.measured.rows import Row
from fastdeit.text.figures import rounded
from fastdeit.text.tables import markdown_lines, text_table


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table in which rows may have nothing."""

    title: str
    of: Callable[[Row], str | None]
    """The cell; None is n/a."""


def _figure(title: str, form: str | None, of: Callable[[Row], float | None]) -> _Column:
    """A column of figures, written by str.format; None as `form` is four digits."""

    def cell(row: Row) -> str | None:
        value = of(row)
        if value is None:
            return None
        return rounded(value) if form is None else form.format(value)

    return _Column(title, cell)


_MORE = (
    _figure("ms/step", None, lambda row: row.step_ms),
    _figure("MFU", "{:.1%}", lambda row: row.mfu),
    _figure("data wait", "{:.0%}", lambda row: row.data_wait_frac),
    _figure("GPU GiB", "{:.1f}", lambda row: row.gpu_memory_gib),
    _figure("batch", "{:,}", lambda row: row.batch_size),
    _figure("params M", "{:.1f}", lambda row: row.params_m),
    _figure("GMACs", "{:.2f}", lambda row: row.gmacs),
    _figure("paper V100", "{:,.5g}", lambda row: row.paper),
    _figure("x V100", "{:.3g}", lambda row: row.times_paper),
)
_IN_OWN_WORDS = ("MFU", "paper V100", "x V100")
"""Those that have footnotes in Markdown."""


def _filled(
    rows: Sequence[Row], always: Sequence[_Column], optional: Sequence[_Column]
) -> list[list[str]]:
    """The header and the cells; an optional column that no row has anything for is left out."""
    columns = [*always, *optional]
    # Row by row, for footnotes are numbered as they are met.
    lines = [[column.of(row) for column in columns] for row in rows]
    used = [at for at in range(len(columns)) if at < len(always) or any(line[at] for line in lines)]
    cells = [[line[at] or "n/a" for at in used] for line in lines]
    return [[columns[at].title for at in used], *cells]


# ---- for a terminal ------------------------------------------------------------------------------
def row_line(row: Row) -> str:
    """A row as a line, for whoever follows a run."""
    said = [f"{rounded(row.median)} {row.unit} ({_between(row)}, n {row.n})"]
    said += [f"{ratio:.2f} x {name.split(' (')[0]}" for name, ratio in row.ratios.items()]
    if row.frac_of_bound is not None:
        said.append(f"{100 * row.frac_of_bound:.0f}% of the bound")
    said += [f"{each.title} {each.of(row)}" for each in _MORE if each.of(row) is not None]
    return f"{row.case}: {row.name}: {', '.join(said)}"


def parts_line(row: Row) -> str:
    """The parts of a step in words."""
    parts = ", ".join(f"{name} {took:.3g} ms" for name, took in row.phases_ms.items())
    return f"{row.case}: {row.name}, one after another: {parts}"


def tables_of(rows: Sequence[Row]) -> str:
    """A table for each benchmark, so that its columns are its own."""
    parts = []
    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        parts.append("\n".join([format_table(own), *(parts_line(r) for r in own if r.phases_ms)]))
    return "\n\n".join(parts)


def format_table(rows: Sequence[Row]) -> str:
    """Rows as a table for a terminal."""
    ratios = [_figure("ratio", "{:.2f}", lambda row: row.ratio)]
    # A column for each baseline, where rows are compared with several.
    if any(len(row.ratios) > 1 for row in rows):
        ratios = [
            _figure(f"x {name.split(' (')[0]}", "{:.2f}", partial(_ratio_to, name))
            for name in dict.fromkeys(name for row in rows for name in row.ratios)
        ]
    always = [
        _Column("case", lambda row: row.case),
        _Column("what", lambda row: row.name),
        _Column("median", lambda row: f"{rounded(row.median)} {row.unit}"),
        _Column("p20 to p80", _between),
        _Column("n", lambda row: str(row.n)),
        *ratios,
        _figure("of bound", "{:.0%}", lambda row: row.frac_of_bound),
    ]
    return text_table(_filled(rows, always, _MORE), "l")


def _ratio_to(name: str, row: Row) -> float | None:
    return row.ratios.get(name)


def _between(row: Row) -> str:
    return f"{rounded(row.p20)} to {rounded(row.p80)}"


# ---- in Markdown ---------------------------------------------------------------------------------
def times(value: float) -> str:
    """A ratio: two digits behind the point, none of them needed above 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _percent(part: float) -> str:
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


class _Footnotes:
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


def case_lines(rows: list[Row]) -> list[str]:
    """A case, measured in one environment, as a table with footnotes, and the parts of its steps.

    Columns that no row has anything for are left out; of ratio and bound that is said.
    """
    notes = _Footnotes()
    always = [
        _Column("what", lambda row: escaped(row.name) + notes.mark(row.note)),
        _Column("median", lambda row: f"{rounded(row.median)} {escaped(row.unit)}"),
        _Column("p20 to p80", spread),
        _Column("n", lambda row: str(row.n)),
    ]
    optional = [
        *_ratio_columns(rows),
        _Column("of the bound", lambda row: bound(row, notes)),
        _Column("MFU", lambda row: _mfu(row, notes)),
        _Column("the paper's", lambda row: _paper(row, notes)),
        *_known(rows),
    ]
    lines = markdown_lines(_filled(rows, always, optional))
    missing = [
        *([] if any(row.all_ratios for row in rows) else ["baseline"]),
        *([] if any(row.bound is not None for row in rows) else ["bound"]),
    ]
    if missing:
        lines += [f"No {' and no '.join(missing)}.", ""]
    return [*lines, *notes.lines, *_phase_lines(rows)]


def _ratio_columns(rows: list[Row]) -> list[_Column]:
    """A column for each baseline; one for all where each row has but its own."""
    names = list(dict.fromkeys(name for row in rows for name in row.all_ratios))

    def own(row: Row) -> str | None:
        if row.baseline is not None:
            return escaped(row.baseline)
        return "itself" if row.name in names else None

    def ratio(row: Row, baseline: str) -> str | None:
        """With its spread where that is known; 1 for the baseline itself."""
        if row.name == baseline and baseline in names:
            return "1"
        if baseline not in row.all_ratios:
            return None
        text = times(row.all_ratios[baseline])
        is_main = baseline == row.baseline and row.n > 1
        if not is_main or row.ratio_p20 is None or row.ratio_p80 is None:
            return text
        return f"{text} ({times(row.ratio_p20)} to {times(row.ratio_p80)})"

    if len(names) > 1 and all(len(row.all_ratios) <= 1 for row in rows):
        return [
            _Column("ratio", lambda row: ratio(row, row.baseline or row.name)),
            _Column("to", own),
        ]
    return [
        _Column(f"x {escaped(name)}", lambda row, name=name: ratio(row, name))  # type: ignore[misc]
        for name in names
    ]


def spread(row: Row) -> str | None:
    """From p20 to p80; one round has none."""
    return None if row.n == 1 else _between(row)


def bound(row: Row, notes: _Footnotes | None = None) -> str | None:
    """Which part of which bound, with a footnote that says what it is; without `notes` in words."""
    if row.bound is None or row.frac_of_bound is None:
        return None
    what = row.bound_what or ""
    end = f": {escaped(what)}" if notes is None else notes.mark(what)
    return f"{_percent(row.frac_of_bound)} of {rounded(row.bound)}{end}"


def _mfu(row: Row, notes: _Footnotes) -> str | None:
    return None if row.mfu is None else f"{_percent(row.mfu)}{notes.mark(row.peak_what)}"


def _paper(row: Row, notes: _Footnotes) -> str | None:
    """What the paper gives, and how many times that this is."""
    if row.paper is None:
        return None
    ratio = "" if row.times_paper is None else f"; x {times(row.times_paper)}"
    return f"{rounded(row.paper)}{ratio}{notes.mark(row.paper_what)}"


def _known(rows: list[Row]) -> list[_Column]:
    """The terminal's other columns; batch and px are left out where all rows have the same."""
    pixels = _figure("px", "{}", lambda row: row.image_size)
    found = [pixels, *(column for column in _MORE if column.title not in _IN_OWN_WORDS)]
    if len(rows) == 1:
        return found
    is_one = {each.title for each in found if len({each.of(row) for row in rows}) == 1}
    return [each for each in found if each.title not in is_one & {"batch", "px"}]


def _phase_lines(rows: list[Row]) -> list[str]:
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
        *markdown_lines([["what", *map(escaped, names), "sum"], *lines]),
    ]
