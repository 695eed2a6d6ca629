"""A measured rate, and the files that keep such rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.files import replace_file
from fastdeit.text.json_text import parse_json

ROWS = "rows.jsonl"
"""The rows of an --out folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measured rate."""

    case: str
    """Which benchmark it belongs to."""
    name: str
    unit: str
    """What a rate counts, such as img/s."""
    n: int
    """How many timed rounds."""
    median: float
    """Median rate of the rounds."""
    p20: float
    """20th percentile of the rates."""
    p80: float
    """80th percentile of the rates."""
    mean: float | None = None
    """Mean of the rates, as the paper gives."""
    baseline: str | None = None
    """Name of the row that this one is compared with."""
    ratio: float | None = None
    """Median over rounds of this rate over the baseline's in the same round."""
    ratio_p20: float | None = None
    """20th percentile of the same."""
    ratio_p80: float | None = None
    """80th percentile of the same."""
    bound: float | None = None
    """A rate that physics or another stage does not let it exceed."""
    bound_what: str | None = None
    frac_of_bound: float | None = None
    note: str | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    """As `ratio`, to each of several baselines."""
    step_ms: float | None = None
    """Milliseconds of a training step, at the median rate."""
    mfu: float | None = None
    """Model FLOPs utilisation: part of the device's peak that the model's operations took."""
    peak_what: str | None = None
    data_wait_frac: float | None = None
    """Part of the time in which the loader was waited for; median of the rounds."""
    gpu_memory_gib: float | None = None
    """The most memory that its tensors took on a GPU."""
    model: str | None = None
    """timm's name, where one was measured."""
    image_size: int | None = None
    """Side of its images in pixels."""
    batch_size: int | None = None
    params_m: float | None = None
    """Its parameters in millions."""
    gmacs: float | None = None
    """Multiply-adds of one image's forward pass, in thousand millions."""
    paper: float | None = None
    """What the paper gives for the same, in the same unit."""
    paper_what: str | None = None
    """Where in the paper, and on what."""
    phases_ms: dict[str, float] = field(default_factory=dict)
    """Parts of a step in milliseconds, from one pass of its own."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else tells it from a row of the same name: both must be alike to be compared."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a row is a measurement of."""
        return self.case, self.name, json.dumps(self.settings, sort_keys=True)

    @property
    def times_paper(self) -> float | None:
        """The mean rate, as the paper gives it, over the paper's."""
        return (self.mean or self.median) / self.paper if self.paper else None

    @property
    def family(self) -> str:
        """The benchmark: the case without what it was measured with."""
        return self.case.replace(":", ",").split(",")[0].strip()

    @property
    def file_stem(self) -> str:
        """The benchmark as a file is named: end-to-end, memory-of-a-rank."""
        return "-".join(re.findall(r"\w+", self.family))

    @property
    def less_is_better(self) -> bool:
        """Whether it counts what something costs, such as MB or ms, and not what a second gives."""
        return not self.unit.endswith("/s")

    @property
    def all_ratios(self) -> dict[str, float]:
        """`ratios`, also of older rows, which had but one."""
        if not self.ratios and self.baseline is not None and self.ratio is not None:
            return {self.baseline: self.ratio}
        return self.ratios


@dataclass(frozen=True, slots=True)
class Kept:
    """A row from a file."""

    row: Row
    environment: dict[str, Any]
    """What it was measured on."""


def with_bound(row: Row, bound: float, what: str) -> Row:
    """The row beside a rate that it cannot exceed."""
    return replace(row, bound=bound, bound_what=what, frac_of_bound=row.median / bound)


def compared_with(row: Row, ratios: dict[str, float]) -> Row:
    """The row with these ratios only, the first of them the main one."""
    baseline, ratio = next(iter(ratios.items()), (None, None))
    if baseline != row.baseline:
        row = replace(row, ratio_p20=None, ratio_p80=None)
    return replace(row, baseline=baseline, ratio=ratio, ratios=ratios)


def with_ratio(row: Row, name: str, other: Row) -> Row:
    """The row with its ratio to another, which was not timed in turns with it."""
    ratios = {**row.ratios, name: row.median / other.median}
    return replace(
        row, baseline=row.baseline or name, ratio=row.ratio or ratios[name], ratios=ratios
    )


def write_rows(path: Path, rows: Iterable[Kept]) -> None:
    """Write rows as JSON lines, each with its environment; the file appears when it is complete."""
    lines = [
        json.dumps({**asdict(kept.row), "environment": kept.environment}) + "\n" for kept in rows
    ]
    replace_file(path, "".join(lines).encode())


def read_rows(path: Path) -> list[Kept]:
    """Read what `write_rows` wrote; fields that rows had or will have are left out.

    Raises UserError if the file holds anything else.
    """
    types = {each.name: str(each.type) for each in fields(Row)}
    kept = []
    for number, text in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        try:
            values = parse_json(text)
            environment = values.pop("environment")
            values = {name: value for name, value in values.items() if name in types}
            row = Row(**values)
            if not isinstance(environment, dict) or not all(
                is_of(value, types[name]) for name, value in values.items()
            ):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"rows must be JSON lines of `fastdeit bench`. Found: {path}, line {number}, "
                f"{text[:60]!r}. Delete that line, or give another folder or file."
            ) from None
        kept.append(Kept(row, environment))
    return kept


def is_of(value: object, type_name: str) -> bool:
    """Whether a value from JSON is what a field of `Row` holds; numbers are finite, 0 or more."""
    if value is None:
        return type_name.endswith("None")
    if type_name.startswith("dict"):
        is_plain = "Any" in type_name
        return isinstance(value, dict) and (
            is_plain or all(is_of(each, "float") for each in value.values())
        )
    if type_name.startswith("str"):
        return isinstance(value, str)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[operator, arg-type]


def find_rows(path: Path) -> list[Path]:
    """The files of rows that a path stands for: itself, or those in the folder.

    Raises UserError if there are none.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    if not files:
        raise UserError(
            f"there must be rows of `fastdeit bench`. Found: no .jsonl at {path}. Give the folder "
            "that was its --out, or a file of rows."
        )
    return files


def read_all(path: Path) -> dict[str, list[Kept]]:
    """The rows of a folder or a file, by the file's name.

    Raises:
        UserError: there are none.
        OSError: a file cannot be read.
    """
    kept = {file.name: read_rows(file) for file in find_rows(path)}
    if not any(kept.values()):
        raise UserError(
            f"there must be rows of `fastdeit bench`. Found: none in {path}. Give the folder that "
            "was its --out, or a file of rows."
        )
    return kept


def read_folder(path: Path) -> list[Kept]:
    """The same, file after file."""
    return [kept for rows in read_all(path).values() for kept in rows]
