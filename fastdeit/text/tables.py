"""Tables, for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], sides: str = "lr") -> str:
    """Put cells below each other; the header comes first.

    `sides` is l or r for each column, where its cells stand; the last one holds for the rest too.
    Words go to the left, numbers to the right.
    """
    return "\n".join("  ".join(cells).rstrip() for cells in _padded(rows, sides))


def markdown_table(rows: Sequence[Sequence[str]], sides: str = "lr") -> str:
    """The same as a table of Markdown, which is one without being rendered too."""
    header, *others = _padded(rows, sides)
    rules = [
        "-" * len(cell) if side == "l" else "-" * (len(cell) - 1) + ":"
        for cell, side in zip(header, _of_columns(sides, len(header)), strict=True)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rules, *others))


def markdown_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same without padding, for long cells; with an empty line behind it."""
    header, *others = (f"| {' | '.join(cells)} |" for cells in rows)
    return [header, f"|{'|'.join('---' for _ in rows[0])}|", *others, ""]


def _padded(rows: Sequence[Sequence[str]], sides: str) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = ["<" if side == "l" else ">" for side in _of_columns(sides, len(widths))]
    return [
        [f"{cell:{at}{width}}" for cell, at, width in zip(row, places, widths, strict=True)]
        for row in rows
    ]


def _of_columns(sides: str, number: int) -> str:
    return sides.ljust(number, sides[-1])[:number]


def figure(value: float | None, form: str) -> str:
    """A number as a cell, or n/a."""
    return "n/a" if value is None else format(value, form)
