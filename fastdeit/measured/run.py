"""What runs and benchmarks left on disk: the files of a run's folder, checked line by line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from fastdeit.errors import UserError, require
from fastdeit.measured.rows import ROWS
from fastdeit.text.json_text import parse_json
from fastdeit.training.telemetry import METRICS

Json = dict[str, Any]

CONFIG, ENVIRONMENT = "config.json", "environment.json"
EVALUATION, SHEET = "evaluation.json", "augmented.png"
BY_CLASS = "by_class"
"""Under which an evaluation holds each class; older ones do not."""
MOST_CLASSES = 200
"""Up to so many classes confusions are counted unasked, drawn, and shown in a report."""
SHAPE = ("patch_size", "embed_dim", "depth", "num_heads")
"""Options that make a model another one than timm's of the same name."""
_TRAIN_NUMBERS = ("step", "epoch", "loss", "lr", "img_per_s", "data_wait_frac", "elapsed_s")
_EVAL_NUMBERS = ("step", "epoch", "num_images", "elapsed_s")
_BENCH_NUMBERS = ("median", "p20", "p80", "n", "ratio", "bound", "frac_of_bound")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_REPAIR = "Repair or delete the line."


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, as it lies on disk."""

    folder: Path
    config: Json = field(default_factory=dict)
    environment: Json = field(default_factory=dict)
    rows: dict[str, list[Json]]
    """Lines of metrics.jsonl by their kind, in the order of their steps."""
    evaluation: Json | None = None
    """evaluation.json, if `fastdeit evaluate` was run."""
    sheet: bytes | None = None
    """augmented.png, if it is there."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know about the files, one sentence each."""

    @property
    def train(self) -> list[Json]:
        """Lines of kind train."""
        return self.rows["train"]

    @property
    def evals(self) -> list[Json]:
        """Lines of kind eval."""
        return self.rows["eval"]

    def option(self, section: str, name: str) -> Any:
        """A field of the configuration; None if it is not there."""
        fields = self.config.get(section)
        return fields.get(name) if isinstance(fields, dict) else None

    @property
    def shape(self) -> Json:
        """How the model differs from timm's of its name; empty if it does not."""
        return {name: v for name in SHAPE if (v := self.option("model", name)) is not None}


def load_run(
    folder: Path, kinds: tuple[str, ...] = ("train", "eval"), in_evals: tuple[str, ...] = ("step",)
) -> Run:
    """Read one run folder; files that a run may lack are empty or None.

    Of metrics.jsonl lines of `kinds` are read; `in_evals` are numbers that each evaluation among
    them must have. Raises UserError if the folder or metrics.jsonl is missing or empty, or a file
    is malformed.
    """
    if not folder.is_dir():
        raise UserError(
            f"RUN must be a folder written by `fastdeit train`. Found: {folder}, "
            f"{'a file' if folder.exists() else 'which does not exist'}. Pass the run's --out."
        )
    path = folder / METRICS
    if not path.is_file():
        raise UserError(
            f"RUN must hold {METRICS}. Found: {folder} without one. "
            "Pass a folder written by `fastdeit train`."
        )
    found: dict[str, list[Json]] = {kind: [] for kind in kinds}
    notes = []
    for place, row in json_lines(path):
        if row is None:
            notes.append(
                f"The last line of {METRICS} is unfinished, as after a kill; it is ignored."
            )
            continue
        kind = row.get("kind")
        is_text = isinstance(kind, str)
        require(is_text, f"{place}: kind", repr(kind), "must be train or eval", _REPAIR)
        if kind == "train":
            _check_numbers(row, _TRAIN_NUMBERS, place, required=("step",))
        elif kind in kinds:
            _check_numbers(row, _EVAL_NUMBERS, place, required=in_evals)
            _check_scores(row, place)
        if kind in kinds:
            found[kind].append(row)
    if not any(found.values()):
        raise UserError(
            f"{path} must hold a finished line of kind train or eval. Found: none. "
            "Let the run reach its first log line, or leave it out."
        )
    kept = {kind: _without_superseded(rows) for kind, rows in found.items()}
    num_superseded = sum(map(len, found.values())) - sum(map(len, kept.values()))
    if num_superseded:
        notes.append(
            f"The run was resumed: {num_superseded} lines of {METRICS} are of steps that it took "
            "again, and are ignored."
        )
    return Run(
        folder=folder,
        config=load_json(folder / CONFIG) or {},
        environment=load_json(folder / ENVIRONMENT) or {},
        rows=kept,
        evaluation=load_evaluation(folder / EVALUATION),
        sheet=_load_png(folder / SHEET),
        notes=notes,
    )


def load_evaluation(path: Path) -> Json | None:
    """Read what `fastdeit evaluate` wrote; None without a file, UserError if it is malformed."""
    evaluation = load_json(path)
    if evaluation is not None:
        _check_scores(evaluation, str(path))
        _check_classes(evaluation, f"{path}: {BY_CLASS}")
    return evaluation


def load_bench(paths: Iterable[Path]) -> tuple[list[Json], list[str]]:
    """Read rows of `fastdeit bench`, also such as are not finished, with notes on unfinished lines.

    Raises UserError if a file is missing or has a malformed line.
    """
    rows: list[Json] = []
    notes = []
    for given in paths:
        path = given / ROWS if (given / ROWS).is_file() else given
        if not path.is_file():
            raise UserError(
                f"--bench must be a file of JSON lines. Found: {path}, "
                f"{'a folder' if path.exists() else 'which does not exist'}. "
                "Pass a file written by `fastdeit bench`."
            )
        for place, row in json_lines(path):
            if row is None:
                notes.append(f"The last line of {path.name} is unfinished and ignored.")
                continue
            _check_numbers(row, _BENCH_NUMBERS, place)
            if not isinstance(row.get("environment"), dict | None):
                raise UserError(f"{place}: environment must be a JSON object. Write the line anew.")
            rows.append(row)
    return rows, notes


def json_lines(path: Path) -> Iterator[tuple[str, Json | None]]:
    """The JSON objects of a file, one a line, each with its place, "FILE line N".

    None stands for an object whose line is the last and unfinished. Raises UserError if another
    line is not a JSON object, or the file cannot be read.
    """
    lines = _read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path} line {number}"
            # Only a line without its newline can be the trace of a kill in mid-write.
            yield place, _parse(line, place, "line", may_be_cut=number == len(lines))


def load_json(path: Path) -> Json | None:
    """Read a JSON object from a file; None if there is no such file, UserError if it is not one."""
    return _parse(_read_bytes(path), str(path), "file") if path.is_file() else None


def _check_scores(row: Json, place: str) -> None:
    """Make sure that an evaluation has heads, with percentages from 0 to 100."""
    _check_numbers(row, ("num_images",), place)
    again, heads = "Evaluate again.", row.get("heads")
    is_map = isinstance(heads, dict) and bool(heads)
    require(is_map, f"{place}: heads", repr(heads), "must map a head's name to its scores", again)
    for name, scores in row["heads"].items():
        what = f"{place}: heads.{name}"
        require(isinstance(scores, dict), what, repr(scores), "must be a JSON object", again)
        _check_numbers(scores, ("top1_pct", "top5_pct", "loss"), what)
        for key in ("top1_pct", "top5_pct"):
            score = scores.get(key)
            is_percentage = score is None or 0 <= score <= 100
            require(is_percentage, f"{what}.{key}", score, "must be from 0 to 100", again)


def _check_classes(evaluation: Json, place: str) -> None:
    """Make sure that what is there of the classes counts images of each."""
    if BY_CLASS not in evaluation:
        return
    again, facts = "Evaluate again.", evaluation[BY_CLASS]
    require(isinstance(facts, dict), place, repr(facts)[:60], "must be a JSON object", again)
    for name in ("head", "weights"):
        word = facts.get(name)
        require(isinstance(word, str), f"{place}.{name}", repr(word), "must be a word", again)
    columns = [facts.get(name) for name in ("names", "correct", "total")]
    lengths = [len(column) if isinstance(column, list) else None for column in columns]
    is_table = None not in lengths and lengths[0] and len(set(lengths)) == 1
    rule = "must have as many names as correct and total"
    require(bool(is_table), place, f"{lengths} of them", rule, again)
    rows = [*zip(*columns, strict=True)]
    for number, (name, correct, total) in enumerate(rows):
        is_right = isinstance(name, str) and _is_count(total) and _is_count(correct, total)
        what, rule = f"{place}, class {number}", "must have a name, and correct up to total"
        require(is_right, what, f"{name!r}, {correct!r} and {total!r}", rule, again)
    num_images = sum(total for *_, total in rows)
    require(num_images > 0, f"{place}.total", num_images, "must count an image", again)
    confused = facts.get("confused", [])
    is_list = isinstance(confused, list)
    require(is_list, f"{place}.confused", repr(confused)[:60], "must be a list", again)
    for row in confused:
        is_row = isinstance(row, list) and len(row) == 3 and all(map(_is_count, row))
        is_right = is_row and max(row[:2]) < len(rows) and row[2] <= rows[row[0]][2]
        rule = "must be two classes, and images of the first"
        require(is_right, f"{place}.confused", repr(row)[:60], rule, again)


def _is_count(value: object, most: float = math.inf) -> bool:
    """Whether a JSON value is a whole number from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_numbers(
    row: Json, keys: Iterable[str], place: str, required: Iterable[str] = ()
) -> None:
    """Refuse what is neither a number nor, unless required, absent (null)."""
    for key in keys:
        value = row.get(key)
        if value is not None or key in required:
            # A loss may be NaN: a run that diverged deserves its report.
            is_good = is_number(value) and (key == "loss" or math.isfinite(value))
            require(is_good, f"{place}: {key}", repr(value), "must be a number", _REPAIR)


def _parse(raw: bytes, what: str, unit: str, may_be_cut: bool = False) -> Json | None:
    """A JSON object from bytes; None for what was cut, where that may be."""
    rule = "must be one JSON object" if unit == "line" else "must be a JSON object"
    why = ""
    try:
        content = parse_json(raw.decode())
    except ValueError as error:
        if may_be_cut:
            return None
        content, why = None, f" ({error})"
    is_object = isinstance(content, dict)
    require(is_object, what, _quoted(raw) + why, rule, f"Repair or delete the {unit}.")
    return content  # type: ignore[no-any-return]


def _load_png(path: Path) -> bytes | None:
    """Read a PNG file; None if there is no such file."""
    if not path.is_file():
        return None
    image = _read_bytes(path)
    is_png = image.startswith(_PNG_SIGNATURE)
    require(is_png, str(path), _quoted(image[:16]), "must be a PNG image", "Delete the file.")
    return image


def _read_bytes(path: Path) -> bytes:
    """Read a file; an OSError becomes a UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read. Found: {error.strerror}. Check its permissions."
        ) from error


def _quoted(raw: bytes) -> str:
    """The beginning of what was found, on one line."""
    text = raw[:60].decode(errors="replace")
    return repr(text if len(raw) <= 60 else text + "...")


def _without_superseded(rows: list[Json]) -> list[Json]:
    """Keep, where a resumed run logged a step again, only the last of the lines."""
    kept: list[Json] = []
    for row in rows:
        while kept and kept[-1]["step"] >= row["step"]:
            kept.pop()
        kept.append(row)
    return kept
