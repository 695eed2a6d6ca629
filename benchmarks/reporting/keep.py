"""`fastdeit bench keep`: files rows among the kept ones: CASE_HARDWARE_YYYYMM_COMMIT.jsonl."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.benchmarks.reporting.report import RESULTS
from fastdeit.measured.environment import describe_commit, source_digest
from fastdeit.measured.rows import Kept, read_folder, read_rows, write_rows

MAKERS = ("amd", "geforce", "instinct", "nvidia", "radeon", "tesla")
"""Words of a GPU's name that do not tell it from others."""
SERIES = ("gtx", "quadro", "rtx", "titan")
"""Words that belong to the one behind them."""


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
    rows = read_folder(folder)
    files = _keep_rows(rows, results, dirty, overwrite)
    for path in files:
        print(path, file=sys.stderr)
    print(json.dumps({"num_rows": len(rows), "files": [str(path) for path in files]}))
    return 0


def _keep_rows(rows: list[Kept], results: Path, dirty: bool, overwrite: bool) -> list[Path]:
    """Write rows into files under their names, all or none."""
    rows = [_with_commit(kept) for kept in rows]
    num_dirty = sum(bool(kept.environment.get("dirty")) for kept in rows)
    if num_dirty and not dirty:
        raise UserError(
            "rows must be of a commit, so that others can measure them again. Found: "
            f"{num_dirty} of {len(rows)} of a checkout with other changes. Commit and measure "
            "again, or pass --dirty."
        )
    files: dict[Path, list[Kept]] = {}
    for kept in rows:
        files.setdefault(results / _name_of(kept), []).append(kept)
    changed = {path: own for path, own in files.items() if not _holds(path, own)}
    others = [path for path in sorted(changed) if path.exists()]
    if others and not overwrite:
        raise UserError(
            f"kept results must not be lost. Found: other rows in {others[0]}. Give another "
            "--results, or replace them with --overwrite."
        )
    for path, own in changed.items():
        before = read_rows(path) if path.exists() else []
        again = {kept.row.key for kept in own}
        write_rows(path, [*(kept for kept in before if kept.row.key not in again), *own])
    return sorted(files)


def _with_commit(kept: Kept) -> Kept:
    """Rows that were measured from a copy without git, with the commit of the same files."""
    source = kept.environment.get("source")
    if kept.environment.get("commit") is not None or source is None:
        return kept
    here = describe_commit()
    if here["commit"] is None or here["dirty"] or source != source_digest():
        raise UserError(
            "rows of a copy without git must be kept from a clean checkout of the same files. "
            f"Found: files {source}, here {source_digest()} of {here['commit']}"
            f"{', with other changes' if here['dirty'] else ''}. Check out what was copied."
        )
    return replace(kept, environment={**kept.environment, **here, "source": None})


def _holds(path: Path, rows: list[Kept]) -> bool:
    """Whether a file has just these rows."""
    return path.exists() and read_rows(path) == rows


def _name_of(kept: Kept) -> str:
    """The name of the file that a row belongs into; one without date or commit is refused."""
    environment = kept.environment
    date, commit = environment.get("date"), environment.get("commit")
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        raise UserError(
            f"rows must know their commit. Found: {commit} in {kept.row.case}. Measure from a git "
            "checkout."
        )
    if not isinstance(date, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise UserError(
            f"rows must know their date. Found: {date} in {kept.row.case}. Measure again."
        )
    month = date[:7].replace("-", "")
    end = "-dirty" if environment.get("dirty") else ""
    return f"{kept.row.file_stem}_{hardware_slug(environment)}_{month}_{commit[:8]}{end}.jsonl"


def hardware_slug(environment: dict[str, Any]) -> str:
    """A short name of a machine: h200, rtx4090, or cpu-2cores without a GPU."""
    gpu = environment.get("gpu")
    if not gpu:
        return f"cpu-{environment.get('num_cores')}cores"
    words = [word for word in re.findall(r"[a-z0-9.]+", str(gpu).lower()) if word not in MAKERS]
    slug = words[0] if words else "gpu"
    if slug in SERIES and len(words) > 1:
        slug += words[1]
    # A part of a GPU is another machine.
    if "mig" in words:
        slug += "-mig" + "".join(f"-{word}" for word in words[words.index("mig") + 1 :])
    return slug
