"""The harness: warm-up, repeats, the order of the cases, and what is made of their times.

A case is a function that does one round of work and returns how many units it did; it must have
waited for the device before it returns. Cases that are compared take turns, so that a machine that
slows down slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastdeit.measured.rows import Row

MIN_ROUNDS = 2
"""Timed rounds that are done however little time there is."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int = 5
    """Timed rounds of each case, at most."""
    seconds: float | None = None
    """No further round of all cases is begun that would end later than this; None sets no limit."""
    on_round: Callable[[], None] = lambda: None
    """Called after each round of a case, for a progress bar."""
    on_failed: Callable[[str, Exception], None] | None = None
    """Called with the name of a case that may fail, and its error, if its untimed round does."""
    on_warm: Callable[[], None] = lambda: None
    """Called when every case has had its untimed round: what is set up and compiled is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Something to measure."""

    name: str
    run: Callable[[], float]
    """One round; returns the number of units done."""
    note: str | None = None
    before: Callable[[], None] = lambda: None
    """Done before each round, untimed."""
    after: Callable[[], None] = lambda: None
    """Done after each round, untimed."""
    may_fail: bool = False
    """Whether the others go on without it: it is somebody else's."""

    def time(self) -> float:
        """Do a round; return its units a second."""
        self.before()
        started = time.perf_counter()
        units = self.run()
        seconds = time.perf_counter() - started
        self.after()
        return units / seconds


def measure(
    case: str,
    unit: str,
    cases: list[Case],
    effort: Effort,
    baselines: Sequence[str] = (),
) -> list[Row]:
    """Time cases in turn: one untimed round each, then A B C, A B C, ...

    The others are compared with those that `baselines` names, the main one first.

    Returns:
        A row for each case, in their order; none for one that may fail and did.
    """
    begun = time.perf_counter()
    cases = [one for one in cases if _warmed_up(f"{case}: {one.name}", one, effort)]
    baselines = [name for name in baselines if name in [one.name for one in cases]]
    effort.on_warm()
    rates: dict[str, list[float]] = {one.name: [] for one in cases}
    timed_from = time.perf_counter()
    for number in range(effort.rounds):
        now = time.perf_counter()
        if number >= MIN_ROUNDS and effort.seconds is not None:
            if now - begun + (now - timed_from) / number > effort.seconds:
                break
        for one in cases:
            rates[one.name].append(one.time())
            effort.on_round()
    return [_row_of(case, unit, one, rates, baselines) for one in cases]


def _warmed_up(what: str, case: Case, effort: Effort) -> bool:
    """Do a case's untimed round; whether it can be timed."""
    try:
        case.time()
    except Exception as error:
        if not case.may_fail or effort.on_failed is None:
            raise
        effort.on_failed(what, error)
        return False
    effort.on_round()
    return True


def _row_of(
    case: str, unit: str, one: Case, rates: dict[str, list[float]], baselines: Sequence[str]
) -> Row:
    """What the rates of a case's rounds come to, beside those of its baselines."""
    own = rates[one.name]
    row = row_of_values(case, one.name, unit, own)
    in_rounds = {
        baseline: [rate / base for rate, base in zip(own, rates[baseline], strict=True)]
        for baseline in baselines
        if one.name != baseline
    }
    ratios = {name: statistics.median(values) for name, values in in_rounds.items()}
    row = replace(row, mean=statistics.fmean(own), note=one.note, ratios=ratios)
    if not in_rounds or one.name == baselines[0]:
        return row
    main = next(iter(in_rounds))
    return replace(
        row,
        baseline=main,
        ratio=ratios[main],
        ratio_p20=percentile(in_rounds[main], 0.2),
        ratio_p80=percentile(in_rounds[main], 0.8),
    )


def row_of_values(case: str, name: str, unit: str, values: Sequence[float]) -> Row:
    """The row of some measured values, without what it is compared with."""
    return Row(
        case=case,
        name=name,
        unit=unit,
        n=len(values),
        median=statistics.median(values),
        p20=percentile(values, 0.2),
        p80=percentile(values, 0.8),
    )


def percentile(values: Sequence[float], fraction: float) -> float:
    """A percentile by linear interpolation."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
