"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], num_words: int = 1) -> str:
    """Put cells below each other.

    Args:
        rows: the header first, all of one length.
        num_words: so many columns from the left hold words; the others hold numbers and stand to
            the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number < num_words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure(value: float | None, form: str) -> str:
    """A number as a cell, or n/a."""
    return "n/a" if value is None else format(value, form)
