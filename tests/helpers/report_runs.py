"""Runs and benchmark files as `fastdeit report` finds them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastdeit.tools.report.command import report

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
HOSTILE = '<script>alert("x")</script>$\\frac{$'
HEADS = {
    "class": {"top1_pct": 69.5, "top5_pct": 93.0, "loss": 1.1},
    "dist": {"top1_pct": 70.5, "top5_pct": 93.5, "loss": 1.08},
    "joint": {"top1_pct": 71.33, "top5_pct": 94.0, "loss": 1.02},
}
ENVIRONMENT = {"num_classes": 20, "gpu": None, "num_params": 2_700_000}
BENCH: list[dict[str, Any]] = [
    {
        "case": "loaders",
        "name": "PIL",
        "unit": "img/s",
        "median": 480.0,
        "p20": 470.0,
        "p80": 490.0,
        "n": 5,
        "baseline": "PIL",
        "ratio": 1.0,
        "bound": 5700.0,
        "bound_what": "decoding",
        "frac_of_bound": 0.084,
        "environment": {"gpu": None},
    },
    {
        "case": "loaders",
        "name": "ffcv x3",
        "unit": "img/s",
        "median": 2011.0,
        "p20": 1980.0,
        "p80": 2050.0,
        "n": 5,
        "baseline": "PIL",
        "ratio": 4.19,
    },
    {"case": "step", "name": "student", "unit": "img/s", "median": None},
]

MakeRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def page_of(*folders: Path, **options: Any) -> str:
    """Write a report beside the first run and read it."""
    out = folders[0].parent / "report.html"
    assert report(folders, out=out, **options) == 0
    return out.read_text(encoding="utf-8")


def write_bench(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write benchmark rows to a file."""
    path = folder / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, its addresses and those in its style."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(value or "")
            self.addresses += re.findall(r"url\(['\"]?([^)'\"]*)", value or "")
