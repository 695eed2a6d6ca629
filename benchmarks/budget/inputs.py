"""What kept rows say of one GPU: its step, its loader."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from fastdeit.benchmarks.cases.step import STEP
from fastdeit.benchmarks.harness.record import Record
from fastdeit.config import TrainConfig
from fastdeit.errors import UserError
from fastdeit.measured.rows import Kept, Row, find_rows, read_rows
from fastdeit.pipelines.pace import measure_pace, usual_teacher

STEP_CASE = re.compile(r"(?:step|end-to-end): (?P<recipe>.+), batch (?P<batch>\d+)")
LOADER_CASE = re.compile(r"loaders, (?P<cores>\d+) cores?")
ENGINES = ("ffcv", "dali", "pil")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a prediction starts from."""

    rates: tuple[tuple[int, float], ...]
    """(images a step, images a second) of one GPU, by rising batch."""
    what: str
    """Where they come from."""
    backward_frac: float | None = None
    """Part of a step in the backward pass; None if only its operations are known."""
    loader_img_per_s: float | None = None
    """Of one core; None if nothing is known."""
    loader_what: str = "as given"
    """Where that comes from."""
    model: str | None = None
    """What was measured in place of the recipe's model."""
    image_size: int | None = None
    """The same of its resolution."""


def read_folder(path: Path) -> list[Kept]:
    """The rows of an --out folder, or of one file.

    Raises:
        UserError: there are none.
        OSError: it cannot be read.
    """
    return [kept for file in find_rows(path) for kept in read_rows(file)]


def recipes_in(rows: list[Kept], path: Path) -> list[str]:
    """The recipes whose step was measured, in the order of the rows.

    Raises:
        UserError: there are none.
    """
    found = {match["recipe"]: None for kept in rows if (match := step_case(kept.row))}
    if not found:
        raise UserError(
            f"rows must hold those of a step. Found: none at {path}. Run `fastdeit bench step --out"
            f" {path}` first, or pass --rate IMG_PER_S."
        )
    return list(found)


def step_case(row: Row) -> re.Match[str] | None:
    """The recipe and batch of a row of our step on images that lie there; None of any other."""
    return STEP_CASE.fullmatch(row.case) if row.name == STEP else None


def known_of(rows: list[Kept], path: Path, recipe: str, precision: str, copies: int) -> Known:
    """What rows say of a recipe's step and of the loader.

    Args:
        rows: from `read_folder`.
        path: where they are, for the errors.
        recipe: its name.
        precision: of the step; "auto" takes the only one.
        copies: how many the loader makes of an image.

    Raises:
        UserError: they do not hold the step, or hold it of several machines or models.
    """
    steps: list[tuple[int, Kept]] = []
    for kept in rows:
        match = step_case(kept.row)
        if match is None or match["recipe"] != recipe:
            continue
        if precision in ("auto", kept.row.settings.get("precision")):
            steps.append((int(match["batch"]), kept))
    if not steps:
        among = "" if precision == "auto" else f" in {precision}"
        known = ", ".join(recipes_in(rows, path))
        raise UserError(
            f"rows must hold those of the step of {recipe}{among}. Found: {known} at {path}. Run "
            f"`fastdeit bench step --recipe {recipe} --out {path}` first."
        )
    kinds = dict.fromkeys(kind_of(kept) for _, kept in steps)
    if len(kinds) > 1:
        raise UserError(
            "rows of a step must be of one machine, model, size and precision. Found: "
            f"{'; '.join(kinds)}. Give one of the files at {path}, or pass --precision."
        )
    (kind,) = kinds
    by_batch: dict[int, list[float]] = {}
    for batch, kept in steps:
        by_batch.setdefault(batch, []).append(kept.row.median)
    fracs = [
        kept.row.phases_ms["backward"] / total
        for _, kept in steps
        if (total := sum(v for name, v in kept.row.phases_ms.items() if name != "data wait")) > 0
    ]
    last = steps[-1][1].row
    loader = loader_of(rows, copies)
    return Known(
        rates=tuple((batch, statistics.median(by_batch[batch])) for batch in sorted(by_batch)),
        what=f"measured on {kind}",
        backward_frac=statistics.median(fracs) if fracs else None,
        loader_img_per_s=None if loader is None else loader[0],
        loader_what="" if loader is None else loader[1],
        model=last.model,
        image_size=last.image_size,
    )


def kind_of(kept: Kept) -> str:
    """What must be alike in rows that are put together."""
    row, environment = kept.row, kept.environment
    where = environment.get("gpu") if environment.get("device") != "cpu" else None
    where = where or f"{environment.get('num_cores')} cores of {environment.get('cpu')}"
    return f"{where}, {row.model}, {row.image_size} px, {row.settings.get('precision')}"


def loader_of(rows: list[Kept], copies: int) -> tuple[float, str] | None:
    """Samples a second and core of our fastest engine, on the most cores that were measured."""
    suffix = "" if copies == 1 else f", {copies} copies"
    names = {f"fastdeit {engine}{suffix}" for engine in ENGINES}
    found = [
        (int(match["cores"]), kept.row.median, kept.row.name)
        for kept in rows
        if kept.row.name in names and (match := LOADER_CASE.fullmatch(kept.row.case))
    ]
    if not found:
        return None
    cores, rate, name = max(found)
    return rate / cores, f"measured: {name}, {rate:,.0f} on {cores} cores"


def measure_known(record: Record, recipe: str, config: TrainConfig, num_steps: int) -> Known:
    """Measure the step on this device now.

    Args:
        record: its bar is moved.
        recipe: its name.
        config: the recipe with its batch, device and precision.
        num_steps: timed ones.

    Raises:
        UserError: it cannot be had.
    """
    pace = measure_pace(config, 1, num_steps, None, None, record.on_round, usual_teacher(recipe))
    what = f"measured now: {pace.num_steps} steps on {pace.compute.reason}"
    return Known(rates=((config.data.batch_size, pace.img_per_s),), what=what)
