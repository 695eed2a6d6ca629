"""Figures for people: significant digits, and no powers of ten."""

from __future__ import annotations


def rounded(value: float, digits: int = 4) -> str:
    """A figure with so many significant digits; whole, in thousands, where it has more.

    Args:
        value: 25123.4 becomes "25,123" and 3.14159 "3.142"; only below 0.0001 in powers of ten.
        digits: how many.
    """
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
