"""What a command tells while it works, on stderr: lines, and bars on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T] | None,
    what: str,
    total: int | None = None,
    unit: str = "img",
    first: int = 0,
    is_shown: bool = True,
) -> tqdm[Any]:
    """Wrap `items` in a progress bar; with `items=None` advance it by hand through `.update(n)`.

    Args:
        items: what to iterate over, or None.
        what: a verb phrase in front of the bar, such as "converting".
        total: how many units in all; None asks `len(items)`.
        unit: the name of one unit.
        first: how many units were done before.
        is_shown: False draws nothing.

    Returns:
        The tqdm bar: drawn on stderr after 2 s, and only if stderr is a terminal.
    """
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=first,
        unit=unit,
        delay=2,
        leave=False,
        smoothing=0.1,
        dynamic_ncols=True,
        disable=not (is_shown and sys.stderr.isatty()),
        file=sys.stderr,
    )


def say(text: str) -> None:
    """Print a line on stderr, above a bar if there is one."""
    tqdm.write(text, file=sys.stderr)
