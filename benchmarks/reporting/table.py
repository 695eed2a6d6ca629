"""Rows as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastdeit.measured.rows import Row
from fastdeit.text.figures import rounded
from fastdeit.text.tables import text_table


@dataclass(frozen=True, slots=True)
class Column:
    """A figure that some rows have."""

    title: str
    """Above it."""
    form: str | None
    """How it is written, for str.format; None for four digits."""
    of: Callable[[Row], float | None]
    """The figure of a row."""

    def text(self, row: Row) -> str:
        """What the table shows."""
        value = self.of(row)
        if value is None:
            return "n/a"
        return rounded(value) if self.form is None else self.form.format(value)


MORE = (
    Column("ms/step", None, lambda row: row.step_ms),
    Column("MFU", "{:.1%}", lambda row: row.mfu),
    Column("data wait", "{:.0%}", lambda row: row.data_wait_frac),
    Column("GPU GiB", "{:.1f}", lambda row: row.gpu_memory_gib),
    Column("batch", "{:,}", lambda row: row.batch_size),
    Column("params M", "{:.1f}", lambda row: row.params_m),
    Column("GMACs", "{:.2f}", lambda row: row.gmacs),
    Column("paper V100", "{:,.5g}", lambda row: row.paper),
    Column("x V100", "{:.3g}", lambda row: row.times_paper),
)
"""Columns that a table has where they are known."""


def row_line(row: Row) -> str:
    """A row as a line, for whoever follows a run."""
    spread = f"{rounded(row.p20)} to {rounded(row.p80)}, n {row.n}"
    said = [f"{rounded(row.median)} {row.unit} ({spread})"]
    said += [f"{ratio:.2f} x {name.split(' (')[0]}" for name, ratio in row.ratios.items()]
    if row.frac_of_bound is not None:
        said.append(f"{100 * row.frac_of_bound:.0f}% of the bound")
    said += [f"{each.title} {each.text(row)}" for each in MORE if each.of(row) is not None]
    return f"{row.case}: {row.name}: {', '.join(said)}"


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
                f"{rounded(row.median)} {row.unit}",
                f"{rounded(row.p20)} to {rounded(row.p80)}",
                str(row.n),
                *("n/a" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                "n/a" if row.frac_of_bound is None else f"{100 * row.frac_of_bound:.0f}%",
                *(column.text(row) for column in more),
            ]
        )
    return text_table(lines, "l")
