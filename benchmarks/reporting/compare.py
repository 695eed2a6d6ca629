"""`fastdeit bench compare`: what became faster or slower between two sets of rows, beyond noise.

Where both have a ratio to the same baseline with its spread, that is compared: the two took turns,
so it holds on a noisy machine. Else the rates are, which hold on the same hardware only.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.measured.rows import Kept, Row, read_folder
from fastdeit.text.figures import rounded
from fastdeit.text.tables import text_table

HARDWARE = {"gpu": "GPU", "cpu": "CPU", "num_cores": "number of cores", "device": "device"}
"""What of an environment is hardware, and in words."""
NOT_VERSIONS = (*HARDWARE, "date", "memory_gib")
MAX_LISTED = 5
"""Rows of one side that are named in the table."""


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
    least = _as_part(threshold)
    found = compare_rows(read_folder(old), read_folder(new), least)
    print(found.text, file=sys.stderr)
    print(json.dumps(found.facts))
    return 1 if found.num_regressions else 0


def _as_part(text: str) -> float:
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


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared."""

    median: float
    p20: float
    p80: float
    unit: str

    @property
    def text(self) -> str:
        """As the table shows it."""
        return f"{rounded(self.median)} {self.unit} ({rounded(self.p20)} to {rounded(self.p80)})"


@dataclass(frozen=True, slots=True)
class Change:
    """A measurement that both sets have."""

    name: str
    old: Figure
    new: Figure
    less_is_better: bool
    threshold: float
    """A change of at most this part is none."""
    excuse: str | None
    """Why a worse figure is no regression, if so."""

    @property
    def change(self) -> float:
        """The new median over the old one, less 1."""
        if self.old.median == 0:
            return 0.0 if self.new.median == 0 else math.inf
        return self.new.median / self.old.median - 1

    @property
    def is_beyond_noise(self) -> bool:
        """Whether p20 to p80 do not overlap and the change is larger than the threshold."""
        is_apart = self.new.p20 > self.old.p80 or self.new.p80 < self.old.p20
        return is_apart and abs(self.change) > self.threshold

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, `less`, `more` or `unchanged`."""
        if not self.is_beyond_noise:
            return "unchanged"
        if self.less_is_better:
            return "more" if self.change > 0 else "less"
        return "faster" if self.change > 0 else "slower"

    @property
    def is_regression(self) -> bool:
        """Whether it became worse beyond noise, and nothing else explains it."""
        return self.verdict in ("slower", "more") and self.excuse is None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of rows beside each other."""

    changes: list[Change]
    only_old: list[str]
    only_new: list[str]
    remarks: list[str]
    """What else differs, a line each; hardware first."""

    @property
    def num_regressions(self) -> int:
        """How many became worse."""
        return sum(change.is_regression for change in self.changes)

    @property
    def text(self) -> str:
        """For a terminal."""
        moved = [change for change in self.changes if change.is_beyond_noise]
        moved.sort(key=lambda change: not change.is_regression)
        lines = [["what", "old", "new", "change", "verdict"]]
        for one in moved:
            # On hardware that differs a change is no improvement either.
            verdict = one.verdict if one.excuse is None else f"{one.verdict} ({one.excuse})"
            lines.append([one.name, one.old.text, one.new.text, f"{one.change:+.1%}", verdict])
        text = [*self.remarks]
        if moved:
            text.append(text_table(lines, "l"))
        text += _only_in("old", self.only_old) + _only_in("new", self.only_new)
        num_unchanged = len(self.changes) - len(moved)
        text.append(f"unchanged: {num_unchanged} of {len(self.changes)}")
        return "\n".join(text)

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changes": [
                {
                    "what": one.name,
                    "unit": one.old.unit,
                    "old": one.old.median,
                    "new": one.new.median,
                    "change": one.change if math.isfinite(one.change) else None,
                    "verdict": one.verdict,
                    "is_regression": one.is_regression,
                }
                for one in self.changes
            ],
            "num_regressions": self.num_regressions,
            "only_old": self.only_old,
            "only_new": self.only_new,
            "remarks": self.remarks,
        }


def _only_in(side: str, names: list[str]) -> list[str]:
    """The rows of one side, a line each, or how many of what if they are many."""
    if len(names) <= MAX_LISTED:
        return [f"only in the {side}: {name}" for name in names]
    kinds = Counter(name.split(": ")[0] for name in names)
    counted = "; ".join(f"{kind}: {number}" for kind, number in kinds.items())
    return [f"only in the {side}: {len(names)} rows ({counted}); the JSON line names them"]


def compare_rows(old: list[Kept], new: list[Kept], threshold: float) -> Comparison:
    """Compare rows of the same measurement, on the same hardware if there are such.

    Of several rows of one measurement the newest counts. A change of at most `threshold` is none.

    Raises:
        UserError: they have no measurement in common.
    """
    before, after = _newest(old), _newest(new)
    by_key = {key: kept for (key, _), kept in before.items()}
    pairs = [
        (before.get((key, hardware)) or by_key.get(key), kept)
        for (key, hardware), kept in after.items()
    ]
    both = [(then, now) for then, now in pairs if then is not None]
    if not both:
        raise UserError(
            "OLD and NEW must have a measurement in common. Found: "
            f"{len(before)} and {len(after)} others. Compare results of the same benchmark."
        )
    used = {id(then) for then, _ in both}
    baselines = {(kept.row.case, name) for kept in [*old, *new] for name in kept.row.all_ratios}
    remarks = [
        *_differences(both, HARDWARE, "other hardware"),
        *_differences(both, {name: name for name in _versions_of(both)}, "other versions"),
    ]
    passed_over = len(old) + len(new) - len(before) - len(after)
    if passed_over:
        remarks.append(f"measured again later: {passed_over} rows are passed over")
    return Comparison(
        changes=[_change_of(then, now, threshold, baselines) for then, now in both],
        only_old=[label(kept.row) for kept in before.values() if id(kept) not in used],
        only_new=[label(now.row) for then, now in pairs if then is None],
        remarks=remarks,
    )


def _change_of(old: Kept, new: Kept, threshold: float, baselines: set[tuple[str, str]]) -> Change:
    """Two rows of one measurement."""
    first, second = _ratio_of(old.row), _ratio_of(new.row)
    row = new.row
    if first is not None and second is not None and first.unit == second.unit:
        return Change(label(row), first, second, row.less_is_better, threshold, None)
    excuse = None
    if _hardware_of(old) != _hardware_of(new):
        excuse = "other hardware"
    elif (row.case, row.name) in baselines and row.ratio is None:
        excuse = "the baseline itself"
    return Change(
        label(row), _rate_of(old.row), _rate_of(row), row.less_is_better, threshold, excuse
    )


def _rate_of(row: Row) -> Figure:
    """The rate with its spread."""
    return Figure(row.median, row.p20, row.p80, row.unit)


def _ratio_of(row: Row) -> Figure | None:
    """The ratio to the baseline, if it has one with its spread."""
    if row.ratio is None or row.ratio_p20 is None or row.ratio_p80 is None:
        return None
    return Figure(row.ratio, row.ratio_p20, row.ratio_p80, f"x {row.baseline}")


def label(row: Row) -> str:
    """What tells a row from others, in words."""
    settings = "".join(f", {name} {value}" for name, value in sorted(row.settings.items()))
    return f"{row.case}: {row.name}{settings}"


def _hardware_of(kept: Kept) -> str:
    """What hardware a row was measured on, to be compared."""
    return json.dumps([kept.environment.get(name) for name in HARDWARE])


def _newest(rows: list[Kept]) -> dict[tuple[tuple[str, str, str], str], Kept]:
    """The newest row of each measurement on each hardware; of one day the last."""
    found: dict[tuple[tuple[str, str, str], str], Kept] = {}
    for kept in sorted(rows, key=lambda kept: str(kept.environment.get("date"))):
        found[kept.row.key, _hardware_of(kept)] = kept
    return found


def _versions_of(pairs: Iterable[tuple[Kept, Kept]]) -> list[str]:
    """What of their environments is neither hardware nor time."""
    names = {name: None for pair in pairs for kept in pair for name in kept.environment}
    return [name for name in names if name not in NOT_VERSIONS]


def _differences(pairs: list[tuple[Kept, Kept]], names: dict[str, str], what: str) -> list[str]:
    """A line that says how the environments of paired rows differ; none if they do not."""
    found: dict[str, None] = {}
    for then, now in pairs:
        for name, words in names.items():
            values = then.environment.get(name), now.environment.get(name)
            if values[0] != values[1]:
                first, second = ("none" if value is None else str(value) for value in values)
                found[f"{words} {first} -> {second}"] = None
    return [f"{what}: {', '.join(found)}"] if found else []
