"""The command `fastdeit report`: one HTML page from what runs and benchmarks left on disk.

It reads and writes files only: nothing is trained, evaluated or measured here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit.errors import UserError
from fastdeit.files import check_ours, replace_file
from fastdeit.measured.run import load_bench
from fastdeit.tools.report.page import GENERATOR, make_page
from fastdeit.tools.report.results import default_not_measured, headline, read_results

Runs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]


def report(
    runs: Runs = (),
    *,
    bench: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    out: Path = Path("report.html"),
    title: str = "Training report",
    not_measured: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
) -> int:
    """Write one self-contained HTML page about runs and benchmarks.

    Args:
        runs: folders written by `fastdeit train`; the result of the first leads the page.
        bench: a file of rows written by `fastdeit bench`.
        out: the page; an earlier report is replaced, any other file is refused.
        title: the heading of the page.
        not_measured: what the page lists as not measured, one item each time; without any it lists
            ImageNet accuracy, a GPU if there was none, and Table 5 of the paper.

    Returns:
        0; the last line on stdout is a JSON object with the page's path and each run's top-1.

    Raises:
        UserError: a run or a row cannot be read, or `out` is not ours to replace.
    """
    if not runs:
        raise UserError(
            "report needs at least one RUN. Found: none. Pass a folder written by `fastdeit train`."
        )
    check_ours(out, GENERATOR, "--out", "report", "fastdeit report")
    results = read_results(runs)
    rows, bench_notes = load_bench(bench)
    listed = not_measured or default_not_measured([result.run for result in results], rows)
    listed = [item for item in listed if item.strip()]
    page = make_page(title, results, rows, bench_notes, listed)
    try:
        replace_file(out, page.encode())
    except OSError as error:
        raise UserError(
            f"--out cannot be written. Found: {out} ({error.strerror}). Pass another --out."
        ) from error
    print(f"{out}: {headline(results[0])}", file=sys.stderr)
    summary = [
        {
            "name": result.label,
            "top1_pct": result.top1_pct,
            "chance_pct": result.chance_pct,
            "head": result.head,
        }
        for result in results
    ]
    print(json.dumps({"report": str(out), "runs": summary}, allow_nan=False))
    return 0
