"""What a command tells while it works, on stderr: lines, and bars, or in a log a line a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from fastdeit.text.figures import duration

T = TypeVar("T")

LOG_S = 60.0
"""Seconds between the lines where stderr is no terminal."""
LOG_LINE = (
    "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} left"
    "{postfix}"
)
LOG_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}, {elapsed} so far{postfix}"


class Log:
    """A stream that takes each picture of a bar as a line."""

    encoding = "ascii"  # tqdm asks

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a picture without what moves a terminal's cursor; nothing if it is empty."""
        line = text.strip("\r\n ")
        if line:
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def progress(
    items: Iterable[T] | None,
    what: str,
    total: int | None = None,
    unit: str = "img",
    first: int = 0,
    is_shown: bool = True,
) -> tqdm[Any]:
    """Wrap `items` in a progress bar; with `items=None` advance it by hand through `.update(n)`.

    The bar is drawn on stderr after 2 s; where stderr is no terminal, a line comes each minute.
    `what` is a verb phrase, such as "converting"; `first` how many units were done before. A total
    of None asks `len(items)`, where it has one.
    """
    settings: dict[str, Any] = {"delay": 2, "dynamic_ncols": True, "file": sys.stderr}
    if not sys.stderr.isatty():
        has_total = total is not None or hasattr(items, "__len__")
        settings = {
            "delay": LOG_S,
            "mininterval": LOG_S,
            "maxinterval": LOG_S,
            "bar_format": LOG_LINE if has_total else LOG_LINE_WITHOUT_TOTAL,
            "file": Log(sys.stderr),
        }
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=first,
        unit=unit,
        leave=False,
        smoothing=0.1,
        disable=not is_shown,
        **settings,
    )


def say(text: str) -> None:
    """Print a line on stderr, above a bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def progress_text(row: dict[str, Any], budget_hours: float | None = None) -> str:
    """Say in one line how training goes, from a row of kind train of metrics.jsonl.

    What the row lacks, or has as None, is left out. Up to 100 characters, such as "loss 6.908, lr
    1.0e-03, 3120 img/s, wait 2%, MFU 41%, 61 GiB, ends in 27 h 50 min, inside 72 h".
    """
    said = [f"loss {row['loss']:.3f}", f"lr {row['lr']:.1e}", f"{row['img_per_s']:.0f} img/s"]
    for name, text in (
        ("data_wait_frac", "wait {:.0%}"),  # for data
        ("mfu", "MFU {:.0%}"),
        ("gpu_memory_gib", "{:.0f} GiB"),
    ):
        if row.get(name) is not None:
            said.append(text.format(row[name]))
    left_s = row.get("left_s")
    if left_s is not None:
        least = "at least " if row.get("left_is_lower_bound") else ""
        said.append(f"ends in {least}{duration(left_s)}")
        if budget_hours is not None:
            over_s = row["elapsed_s"] + left_s - budget_hours * 3600
            if over_s > 0:
                hours = round(over_s / 3600)
                over = duration(over_s) if hours < 10 else f"{hours} h"
                said.append(f"{over} over {budget_hours:g} h")
            elif not least:
                said.append(f"inside {budget_hours:g} h")
    return ", ".join(said)
