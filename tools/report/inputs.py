"""What `fastdeit report` reads: run folders and benchmark rows, checked line by line.

Nothing is computed here (results.py) and nothing is drawn (plots.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastdeit.errors import UserError

Json = dict[str, Any]

TRAIN_NUMBERS = ("step", "epoch", "loss", "lr", "img_per_s", "data_wait_frac", "elapsed_s")
EVAL_NUMBERS = ("step", "epoch", "num_images", "elapsed_s")
BENCH_NUMBERS = ("median", "p20", "p80", "n", "ratio", "bound", "frac_of_bound")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, as it lies on disk."""

    label: str
    """What the page calls the run: its recipe, with the folder's name where two share one."""
    folder: Path
    """Where it was read from."""
    config: Json
    """config.json, or empty."""
    environment: Json
    """environment.json, or empty."""
    train: list[Json]
    """Lines of kind train, in the order of their steps."""
    evals: list[Json]
    """Lines of kind eval, in the order of their steps."""
    evaluation: Json | None
    """evaluation.json, if `fastdeit evaluate` was run."""
    sheet: bytes | None
    """augmented.png, if it is there."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know about the files, one sentence each."""


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """Read run folders and give each a label of its own.

    Args:
        folders: folders written by `fastdeit train`.

    Returns:
        The runs, in the same order.

    Raises:
        UserError: a folder or its metrics.jsonl is missing, empty or cannot be read.
    """
    runs = [load_run(folder) for folder in folders]
    labels = [run.label for run in runs]
    return [
        replace(run, label=f"{run.label} ({run.folder.resolve().name})")
        if labels.count(run.label) > 1
        else run
        for run in runs
    ]


def load_run(folder: Path) -> Run:
    """Read one run folder.

    Args:
        folder: a folder written by `fastdeit train`.

    Returns:
        The run; files that a run may lack are empty or None.

    Raises:
        UserError: the folder or metrics.jsonl is missing or empty, or a file is malformed.
    """
    if not folder.is_dir():
        raise UserError(
            f"RUN must be a folder written by `fastdeit train`. Found: {folder}, "
            f"{'a file' if folder.exists() else 'which does not exist'}. Pass the run's --out."
        )
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(
            f"RUN must hold metrics.jsonl. Found: {folder} without one. "
            "Pass a folder written by `fastdeit train`."
        )
    rows, is_cut = load_jsonl(path)
    train = [check_train(row, place) for place, row in rows if kind_of(row, place) == "train"]
    evals = [check_eval(row, place) for place, row in rows if kind_of(row, place) == "eval"]
    if not train and not evals:
        raise UserError(
            f"{path} must hold a finished line of kind train or eval. Found: none. "
            "Let the run reach its first log line, or leave it out."
        )
    notes = []
    if is_cut:
        notes.append(
            "The last line of metrics.jsonl is unfinished, as after a kill; it is ignored."
        )
    num_lines = len(train) + len(evals)
    train, evals = drop_superseded(train), drop_superseded(evals)
    if len(train) + len(evals) < num_lines:
        notes.append(
            f"The run was resumed: {num_lines - len(train) - len(evals)} lines of metrics.jsonl "
            "are of steps that it took again, and are ignored."
        )
    config = load_json(folder / "config.json") or {}
    evaluation = load_json(folder / "evaluation.json")
    if evaluation is not None:
        check_scores(evaluation, str(folder / "evaluation.json"))
    return Run(
        label=str(config.get("name") or folder.resolve().name),
        folder=folder,
        config=config,
        environment=load_json(folder / "environment.json") or {},
        train=train,
        evals=evals,
        evaluation=evaluation,
        sheet=load_png(folder / "augmented.png"),
        notes=notes,
    )


def load_bench(paths: Iterable[Path]) -> tuple[list[Json], list[str]]:
    """Read benchmark rows.

    Args:
        paths: files with one JSON object a line, written by `fastdeit bench`.

    Returns:
        The rows of all files in order, and notes on unfinished lines.

    Raises:
        UserError: a file is missing or has a malformed line.
    """
    all_rows: list[Json] = []
    notes = []
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"--bench must be a file of JSON lines. Found: {path}, "
                f"{'a folder' if path.exists() else 'which does not exist'}. "
                "Pass a file written by `fastdeit bench`."
            )
        rows, is_cut = load_jsonl(path)
        for place, row in rows:
            check_numbers(row, BENCH_NUMBERS, place)
            if not isinstance(row.get("environment"), dict | None):
                raise UserError(f"{place}: environment must be a JSON object. Write the line anew.")
            all_rows.append(row)
        if is_cut:
            notes.append(f"The last line of {path.name} is unfinished and ignored.")
    return all_rows, notes


def load_jsonl(path: Path) -> tuple[list[tuple[str, Json]], bool]:
    """Read a file of one JSON object a line.

    Args:
        path: the file.

    Returns:
        (place, object) of every line, where place is "FILE line N", and whether an unfinished
        last line was left out.

    Raises:
        UserError: a line other than an unfinished last one is not a JSON object.
    """
    lines = read_bytes(path).split(b"\n")
    rows: list[tuple[str, Json]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            # Only a line without its newline can be the trace of a kill in mid-write.
            if number == len(lines):
                return rows, True
            raise UserError(
                f"{place} must be one JSON object. Found: {shorten(line)} ({error}). "
                "Repair or delete the line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{place} must be one JSON object. Found: {shorten(line)}. "
                "Repair or delete the line."
            )
        rows.append((place, row))
    return rows, False


def load_json(path: Path) -> Json | None:
    """Read a JSON object from a file; None if there is no such file."""
    if not path.is_file():
        return None
    raw = read_bytes(path)
    try:
        content = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} must be a JSON object. Found: {shorten(raw)} ({error}). "
            "Repair or delete the file."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must be a JSON object. Found: {shorten(raw)}. Repair or delete the file."
        )
    return content


def load_png(path: Path) -> bytes | None:
    """Read a PNG file; None if there is no such file."""
    if not path.is_file():
        return None
    image = read_bytes(path)
    if not image.startswith(PNG_SIGNATURE):
        raise UserError(
            f"{path} must be a PNG image. Found: {shorten(image[:16])}. Delete the file."
        )
    return image


def read_bytes(path: Path) -> bytes:
    """Read a file; an OSError becomes a UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read. Found: {error.strerror}. Check its permissions."
        ) from error


def shorten(raw: bytes) -> str:
    """Quote the beginning of what was found, on one line."""
    text = raw[:60].decode(errors="replace")
    return repr(text if len(raw) <= 60 else text + "...")


def kind_of(row: Json, place: str) -> str:
    """The kind of a line of metrics.jsonl; kinds other than train and eval are left to others."""
    kind = row.get("kind")
    if not isinstance(kind, str):
        raise UserError(
            f"{place}: kind must be train or eval. Found: {kind!r}. Repair or delete the line."
        )
    return kind


def check_train(row: Json, place: str) -> Json:
    """Return a line of kind train if its numbers are numbers."""
    check_numbers(row, TRAIN_NUMBERS, place, required=("step",))
    return row


def check_eval(row: Json, place: str) -> Json:
    """Return a line of kind eval if its numbers are numbers and its percentages 0 to 100."""
    check_numbers(row, EVAL_NUMBERS, place, required=("step",))
    check_scores(row, place)
    return row


def check_scores(row: Json, place: str) -> None:
    """Raise a UserError unless `row` holds heads, with percentages from 0 to 100."""
    check_numbers(row, ("num_images",), place)
    heads = row.get("heads")
    if not isinstance(heads, dict) or not heads:
        raise UserError(
            f"{place}: heads must map a head's name to its scores. Found: {heads!r}. "
            "Evaluate again."
        )
    for name, scores in heads.items():
        if not isinstance(scores, dict):
            raise UserError(
                f"{place}: heads.{name} must be a JSON object. Found: {scores!r}. Evaluate again."
            )
        check_numbers(scores, ("top1_pct", "top5_pct", "loss"), f"{place}: heads.{name}")
        for key in ("top1_pct", "top5_pct"):
            value = scores.get(key)
            if value is not None and not 0 <= value <= 100:
                raise UserError(
                    f"{place}: heads.{name}.{key} must be from 0 to 100. Found: {value}. "
                    "Evaluate again."
                )


def check_numbers(row: Json, keys: Iterable[str], place: str, required: Iterable[str] = ()) -> None:
    """Raise a UserError if one of `keys` is neither a number nor absent (null)."""
    for key in keys:
        value = row.get(key)
        if value is None and key not in required:
            continue
        # A loss may be NaN: a run that diverged deserves its report.
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not (key == "loss" or math.isfinite(value))
        ):
            raise UserError(
                f"{place}: {key} must be a number. Found: {value!r}. Repair or delete the line."
            )


def drop_superseded(rows: list[Json]) -> list[Json]:
    """Keep, where a resumed run logged a step again, only the last of the lines."""
    kept: list[Json] = []
    for row in rows:
        while kept and kept[-1]["step"] >= row["step"]:
            kept.pop()
        kept.append(row)
    return kept
