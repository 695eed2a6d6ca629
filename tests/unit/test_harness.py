"""The harness measures what it says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench_here import Heard

from fastdeit.benchmarks.harness.rounds import Case, Effort, measure, percentile
from fastdeit.benchmarks.reporting.table import format_table
from fastdeit.measured.rows import Kept, read_rows, write_rows
from fastdeit.measured.rows import with_bound as bounded


def sleeper(seconds: float) -> Case:
    """A case that does 10 units in a known time."""

    def run() -> int:
        time.sleep(seconds)
        return 10

    return Case(name=f"sleep {seconds}", run=run)


def test_a_planted_sleep_is_found() -> None:
    """Ten units in 50 ms are measured as 200 a second, and half as fast as in 25 ms."""
    slow, fast = measure(
        "test", "unit/s", [sleeper(0.05), sleeper(0.025)], Effort(5), ["sleep 0.05"]
    )
    assert slow.median == pytest.approx(200, rel=0.1)
    assert slow.ratio is None
    assert fast.ratio == pytest.approx(2, rel=0.15)
    assert fast.baseline == "sleep 0.05"
    assert (slow.n, fast.n) == (5, 5)
    assert slow.p20 <= slow.median <= slow.p80


def test_warm_up_is_not_counted() -> None:
    """A slow first round, such as a compilation, does not enter the rates."""
    calls = 0

    def run() -> int:
        nonlocal calls
        calls += 1
        time.sleep(0.3 if calls == 1 else 0.01)
        return 1

    (row,) = measure("test", "unit/s", [Case(name="a", run=run)], Effort(3))
    assert calls == 4
    assert row.p20 > 30


def test_what_is_done_around_a_round_is_not_timed() -> None:
    """Before and after every round, the untimed one too."""
    done: list[str] = []

    def slowly(name: str) -> None:
        done.append(name)
        time.sleep(0.2)

    def run() -> int:
        done.append("run")
        time.sleep(0.01)
        return 1

    case = Case(name="a", run=run, before=lambda: slowly("before"), after=lambda: slowly("after"))
    (row,) = measure("test", "unit/s", [case], Effort(2))
    assert done == ["before", "run", "after"] * 3
    assert row.p20 > 30


def test_a_column_is_shown_where_it_is_known() -> None:
    """Milliseconds of a step, MFU, wait; n/a in rows without."""
    one, other = measure("test", "unit/s", [sleeper(0.001), sleeper(0.002)], Effort(1))
    one = replace(one, step_ms=12.5, data_wait_frac=0.25)
    header, first, second = format_table([one, other]).splitlines()
    assert header.endswith("of bound  ms/step  data wait")
    assert first.split()[-2:] == ["12.5", "25%"]
    assert second.split()[-2:] == ["n/a", "n/a"]
    assert "ms/step" not in format_table([other])


def test_a_limit_of_time_ends_the_rounds() -> None:
    """No round is begun that would end too late, but two are always done."""
    (row,) = measure("test", "unit/s", [sleeper(0.05)], Effort(100, 0.5))
    assert 4 <= row.n <= 9
    (row,) = measure("test", "unit/s", [sleeper(0.05)], Effort(100, 0.001))
    assert row.n == 2
    (row,) = measure("test", "unit/s", [sleeper(0.001)], Effort(3, 60))
    assert row.n == 3


def test_a_peer_that_fails_is_left_out() -> None:
    """It is said and the others go on without it as a baseline; one of our own ends all."""

    def broken() -> float:
        raise ZeroDivisionError("planted")

    ours = [sleeper(0.001), sleeper(0.002)]
    peer = Case(name="a peer", run=broken, may_fail=True)
    heard = Heard()
    rows = measure("test", "unit/s", [peer, *ours], heard.record.effort(1), ["a peer"])
    assert [row.name for row in rows] == ["sleep 0.001", "sleep 0.002"]
    assert all(row.ratios == {} and row.baseline is None for row in rows)
    assert heard.failed == {"test: a peer": "ZeroDivisionError: planted"}
    with pytest.raises(ZeroDivisionError):
        measure("test", "unit/s", [replace(peer, may_fail=False)], heard.record.effort(1))
    with pytest.raises(ZeroDivisionError):
        measure("test", "unit/s", [peer], Effort(1))


def test_the_ratio_has_a_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its percentiles are those of the rounds' ratios."""
    takes = iter([0.0, 0.0, 0.02, 0.02, 0.02, 0.04])  # a, b; a, b; a, b
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def run() -> int:
        nonlocal now
        now += next(takes) + 1e-9
        return 1

    cases = [Case(name="a", run=run), Case(name="b", run=run)]
    _, row = measure("test", "unit/s", cases, Effort(2), ["a"])
    assert row.ratio_p20 == pytest.approx(0.6, abs=1e-6)
    assert row.ratio == pytest.approx(0.75, abs=1e-6)
    assert row.ratio_p80 == pytest.approx(0.9, abs=1e-6)


def test_cases_take_turns() -> None:
    """The order is A B A B, so that drift hits both."""
    order: list[str] = []

    def case(name: str) -> Case:
        def run() -> int:
            order.append(name)
            return 1

        return Case(name=name, run=run)

    measure("test", "unit/s", [case("a"), case("b")], Effort(2))
    assert "".join(order) == "ababab"


def test_percentile_interpolates() -> None:
    """The 20th percentile of 0 to 10 is 2."""
    assert percentile([0.0, 10.0], 0.2) == 2
    assert percentile([3.0], 0.8) == 3


def test_rows_are_written_with_their_environment(tmp_path: Path) -> None:
    """Each line is a row with environment, bound and its fraction."""
    (row,) = measure("test", "unit/s", [sleeper(0.01)], Effort(1))
    row = bounded(row, 2 * row.median, "twice as much")
    write_rows(tmp_path / "rows.jsonl", [Kept(row, {"cpu": "a chip"})])
    assert read_rows(tmp_path / "rows.jsonl") == [Kept(row, {"cpu": "a chip"})]
    (line,) = (tmp_path / "rows.jsonl").read_text().splitlines()
    content = json.loads(line)
    assert content["environment"] == {"cpu": "a chip"}
    assert content["frac_of_bound"] == pytest.approx(0.5)
    assert "50%" in format_table([row])
