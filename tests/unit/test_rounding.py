"""Figures for people."""

from __future__ import annotations

import pytest

from fastdeit.text.figures import rounded


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (25_123.4, 4, "25,123"),
        (1_281_167, 4, "1,281,167"),
        (999.94, 4, "999.9"),
        (1000.4, 4, "1,000"),
        (3.14159, 4, "3.142"),
        (0.05003, 4, "0.05003"),
        (-25_123.4, 4, "-25,123"),
        (7_704.2, 3, "7,704"),
        (77.04, 3, "77"),
        (0.0, 4, "0"),
    ],
)
def test_rounded(value: float, digits: int, text: str) -> None:
    """A GPU's rates must not be written 2.512e+04."""
    assert rounded(value, digits) == text
