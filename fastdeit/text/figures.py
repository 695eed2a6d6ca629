"""Figures for people: significant digits, and no powers of ten."""

from __future__ import annotations

import re

from fastdeit.errors import require


def rounded(value: float, digits: int = 4) -> str:
    """A figure with so many significant digits; whole, in thousands, where it has more.

    25123.4 becomes "25,123" and 3.14159 "3.142"; only below 0.0001 in powers of ten.
    """
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """A duration in two units at most: "45 s", "12 min", "27 h 50 min", "5 d 3 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds < 59.5 else "1 min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def parse_hours(text: str) -> float:
    """Hours of a duration such as 72h, 90m, 3d, 1.5d or 1d12h; UserError if it is none."""
    number = r"(?:(\d+(?:\.\d+)?){})?"
    match = re.fullmatch("".join(number.format(unit) for unit in "dhm"), text.replace(" ", ""))
    days, hours, minutes = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 24 * days + hours + minutes / 60
    require(
        total > 0,
        "within",
        repr(text),
        "must be a duration in days, hours and minutes",
        "Pass --within 72h, 90m, 3d or 1d12h, say.",
    )
    return total
