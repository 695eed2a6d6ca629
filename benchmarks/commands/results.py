"""`fastdeit bench compare`, `keep` and `report`: what is done with rows that were measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit import UserError
from fastdeit.measured.rows import Kept, find_rows, read_rows

RESULTS = Path("benchmarks/results")
REPORT = Path("benchmarks/REPORT.md")


def compare(
    old: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OLD")],
    new: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW")],
    threshold: str = "5%",
) -> int:
    """Say what became faster or slower beyond noise between two folders or files of rows.

    Compared is the ratio to the baseline where both have the same one with its spread, else the
    rate. Beyond noise is what lies apart from p20 to p80 and is larger than the threshold. A rate
    on other hardware and that of a baseline itself are shown, and are no regressions. The table
    goes to stderr; the last line on stdout is one JSON object.

    Args:
        old: an --out folder, a folder of kept results, or a file of rows.
        new: likewise, measured later.
        threshold: changes up to this count for nothing, such as 5%.

    Returns:
        0, or 1 if something became worse beyond noise.
    """
    from fastdeit.benchmarks.reporting.compare import compare_rows

    least = as_part(threshold)
    before = [kept for rows in read_all(old).values() for kept in rows]
    after = [kept for rows in read_all(new).values() for kept in rows]
    found = compare_rows(before, after, least)
    print(found.text, file=sys.stderr)
    print(json.dumps(found.facts))
    return 1 if found.num_regressions else 0


def keep(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")],
    results: Path = RESULTS,
    dirty: bool = False,
    overwrite: bool = False,
) -> int:
    """File the rows of an --out folder among the kept results.

    A file holds one benchmark and is named CASE_HARDWARE_YYYYMM_COMMIT.jsonl.

    Args:
        folder: the --out of earlier measurements, or a file of rows.
        results: folder of the kept ones.
        dirty: also keep rows of a checkout with changes that were not committed; their files' names
            say so.
        overwrite: where a file of the same name holds other rows, those that were measured again
            are replaced, and the rest stays.

    Returns:
        0.
    """
    rows = [kept for own in read_all(folder).values() for kept in own]
    from fastdeit.benchmarks.reporting.keep import keep_rows

    files = keep_rows(rows, results, dirty, overwrite)
    for path in files:
        print(path, file=sys.stderr)
    print(json.dumps({"num_rows": len(rows), "files": [str(path) for path in files]}))
    return 0


def report(
    results: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")] = RESULTS,
    out: Path = REPORT,
    readme: Path | None = None,
) -> int:
    """Write the report of kept results; the same rows give the same bytes.

    Args:
        results: folder of kept results, an --out folder, or a file of rows.
        out: the report, in Markdown; an older report there is replaced.
        readme: a README.md whose table of the main rows is replaced too; it stands between
            `<!-- bench:begin -->` and `<!-- bench:end -->`.

    Returns:
        0.
    """
    kept = read_all(results)
    from fastdeit.benchmarks.reporting.readme_table import readme_table, with_table
    from fastdeit.benchmarks.reporting.report import HEAD, report_text
    from fastdeit.files import replace_file

    if out.exists() and not out.read_text("utf-8", "replace").startswith(HEAD):
        raise UserError(
            f"out must be a new file or an older report. Found: {out}, which is something else. "
            "Give another --out."
        )
    new_readme = None if readme is None else with_table(readme.read_text(), readme_table(kept))
    replace_file(out, report_text(kept).encode())
    if readme is not None and new_readme is not None:
        replace_file(readme, new_readme.encode())
    facts = {
        "report": str(out),
        "readme": None if readme is None else str(readme),
        "files": sorted(kept),
        "num_rows": sum(map(len, kept.values())),
    }
    print(json.dumps(facts))
    return 0


def read_all(path: Path) -> dict[str, list[Kept]]:
    """The rows of a folder or a file, by the file's name."""
    kept = {file.name: read_rows(file) for file in find_rows(path)}
    if not any(kept.values()):
        raise UserError(
            f"there must be rows of `fastdeit bench`. Found: none in {path}. Give the folder that "
            "was its --out, or a file of rows."
        )
    return kept


def as_part(text: str) -> float:
    """A threshold in percent as a part of 1."""
    try:
        part = float(text.removesuffix("%")) / 100
    except ValueError:
        part = -1.0
    if not text.endswith("%") or not 0 <= part < 1:
        raise UserError(
            f"threshold must be a percentage from 0% to below 100%. Found: {text}. Pass "
            "--threshold 5%."
        )
    return part
