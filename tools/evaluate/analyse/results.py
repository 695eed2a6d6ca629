"""Where an analysis goes: one JSON object on stdout, and into a folder with its plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdeit.errors import require
from fastdeit.files import replace_file
from fastdeit.text.plots import save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def need_one(given: Sequence[object], what: str, example: str) -> None:
    """Refuse to analyse nothing."""
    require(bool(given), "analyse", "none", f"needs at least one {what}", f"Pass {example}.")


def check_out(out: Path | None) -> None:
    """Refuse a file as the folder, before anything is computed."""
    is_folder = out is None or not out.exists() or out.is_dir()
    require(is_folder, "out", f"the file {out}", "must be a folder", "Give another --out.")


def finish(
    name: str, facts: dict[str, Any], out: Path | None, draw: Callable[[], Figure] | None
) -> None:
    """Print the facts; with a folder, keep them and the plot there.

    Args:
        name: of the files, NAME.json and NAME.png; those of an earlier analysis are replaced.
        facts: for JSON.
        out: the folder, or None.
        draw: makes the plot; None if there is nothing to draw.
    """
    text = json.dumps(facts)
    if out is not None:
        replace_file(out / f"{name}.json", (text + "\n").encode())
        if draw is not None:
            save_png(draw(), out / f"{name}.png")
    print(text)
