"""Rows of benchmarks, made up for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdeit.measured.rows import Kept, Row, write_rows

ENVIRONMENT: dict[str, Any] = {
    "date": "2026-11-20",
    "cpu": "some CPU",
    "num_cores": 2,
    "memory_gib": 16.0,
    "gpu": None,
    "torch": "2.11.0",
    "dali": None,
    "commit": "0123456789ab",
    "dirty": False,
    "device": "cpu",
}
H200 = {"gpu": "NVIDIA H200", "num_cores": 16, "device": "cuda"}
BASELINE = "the other"


def rate(name: str, median: float, spread: float = 0.01, **fields: Any) -> Row:
    """A row with a rate and no baseline; p20 and p80 lie apart from the median by `spread`."""
    values = {"case": "loaders", "unit": "img/s", "n": 5} | fields
    low, high = median * (1 - spread), median * (1 + spread)
    return Row(name=name, median=median, p20=low, p80=high, **values)


def compared(name: str, ratio: float, median: float = 1000, spread: float = 0.01) -> Row:
    """A row with a ratio to `BASELINE` and its spread."""
    return rate(
        name,
        median,
        spread,
        baseline=BASELINE,
        ratio=ratio,
        ratio_p20=ratio * (1 - spread),
        ratio_p80=ratio * (1 + spread),
        ratios={BASELINE: ratio},
    )


def kept(*rows: Row, **environment: Any) -> list[Kept]:
    """Rows of one environment."""
    return [Kept(row, {**ENVIRONMENT, **environment}) for row in rows]


def written(path: Path, *rows: Row, **environment: Any) -> Path:
    """A file of such rows."""
    write_rows(path, kept(*rows, **environment))
    return path
