"""`fastdeit bench compare` tells what became faster or slower from noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_rows import BASELINE, compared, kept, rate, written

from fastdeit.benchmarks.reporting.compare import compare_rows
from fastdeit.measured.rows import Kept, Row
from fastdeit.tools.cli import main

Compare = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Run the program on two sets of rows; gives its exit code, its JSON and its table."""

    def run(old: list[Row], new: list[Row], *options: str, **environment: Any) -> Any:
        before = written(tmp_path / "old.jsonl", *old)
        after = written(tmp_path / "new.jsonl", *new, **environment)
        code = main(["bench", "compare", str(before), str(after), *options])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert len(lines) == (1 if code != 2 else 0), captured.out
        return code, json.loads(lines[0]) if lines else {}, captured.err

    return run


def verdicts(facts: dict[str, Any]) -> dict[str, str]:
    """The verdict of each change."""
    return {each["what"].partition(": ")[2]: each["verdict"] for each in facts["changes"]}


@pytest.mark.parametrize(
    ("old", "new", "verdict", "code"),
    [
        (rate("a", 1000), rate("a", 1200), "faster", 0),
        (rate("a", 1000), rate("a", 800), "slower", 1),
        (rate("a", 1000), rate("a", 960), "unchanged", 0),  # apart, and below the threshold
        (rate("a", 1000, 0.2), rate("a", 800, 0.2), "unchanged", 0),  # large, and noise
        (rate("a", 1000, 0.2), rate("a", 800, 0), "unchanged", 0),  # they touch
        (rate("a", 100, unit="MB"), rate("a", 120, unit="MB"), "more", 1),
        (rate("a", 100, unit="ms"), rate("a", 80, unit="ms"), "less", 0),
        (rate("a", 10, unit="s"), rate("a", 20, unit="s"), "more", 1),
        (rate("a", 10, unit="GB/s"), rate("a", 20, unit="GB/s"), "faster", 0),
        (rate("a", 0, unit="MB"), rate("a", 5, unit="MB"), "more", 1),
        (rate("a", 0, unit="MB"), rate("a", 0, unit="MB"), "unchanged", 0),
    ],
)
def test_a_planted_change_is_found(
    compare: Compare, old: Row, new: Row, verdict: str, code: int
) -> None:
    """A change counts if it is apart from noise and beyond the threshold, in the unit's sense."""
    found, facts, _ = compare([old], [new])
    assert verdicts(facts) == {"a": verdict}
    assert found == code
    assert facts["num_regressions"] == code


def test_the_threshold_is_an_option(compare: Compare) -> None:
    """What is unchanged at 5% is slower at 3%."""
    rows = [rate("a", 1000)], [rate("a", 960)]
    assert compare(*rows)[0] == 0
    assert compare(*rows, "--threshold", "3%")[0] == 1
    assert compare(*rows, "--threshold", "4.1%")[0] == 0


@pytest.mark.parametrize("threshold", ["5", "0.05", "x%", "-1%", "100%", "nan%"])
def test_a_threshold_that_is_no_percentage_is_refused(compare: Compare, threshold: str) -> None:
    """One line, exit code 2."""
    code, _, err = compare([rate("a", 1)], [rate("a", 1)], f"--threshold={threshold}")
    assert code == 2
    assert f"Found: {threshold}. Pass --threshold 5%." in err


def test_ratios_hold_where_the_machine_was_busy(compare: Compare) -> None:
    """Half the rate at the same ratio is unchanged; the same rate at half the ratio is slower."""
    old = [rate(BASELINE, 500), compared("a", 2, 1000), compared("b", 2, 1000)]
    new = [rate(BASELINE, 250), compared("a", 2, 500), compared("b", 1, 1000)]
    code, facts, table = compare(old, new)
    assert verdicts(facts) == {BASELINE: "slower", "a": "unchanged", "b": "slower"}
    assert code == facts["num_regressions"] == 1  # the baseline's own rate is none
    assert "slower (the baseline itself)" in table
    changed = next(each for each in facts["changes"] if each["what"] == "loaders: b")
    assert (changed["unit"], changed["old"], changed["new"]) == (f"x {BASELINE}", 2, 1)
    assert changed["change"] == -0.5


def test_a_ratio_counts_only_beside_the_same_baseline_with_its_spread(compare: Compare) -> None:
    """Without a spread, or to another baseline, the rates are compared."""
    ours = compared("a", 2, 1000)
    bare = replace(ours, ratio_p20=None, ratio_p80=None, ratio=1.0, ratios={})
    assert verdicts(compare([bare], [ours])[1]) == {"a": "unchanged"}
    other = replace(ours, baseline="a third", ratio=1.0, ratio_p20=1.0, ratio_p80=1.0)
    assert verdicts(compare([ours], [other])[1]) == {"a": "unchanged"}
    slower = replace(bare, median=500, p20=500, p80=500)
    assert compare([bare], [slower])[0] == 1


def test_older_rows_that_are_compared_count(compare: Compare) -> None:
    """A row with a ratio but no spread is judged by its rate, also if others are compared to it."""
    middle = replace(compared("m", 2), ratio_p20=None, ratio_p80=None)
    last = rate("a", 10, baseline="m", ratio=1.0)
    slow = replace(middle, median=500, p20=500, p80=500)
    assert compare([middle, last], [slow, last])[0] == 1


def test_rows_of_one_side_are_listed(compare: Compare) -> None:
    """They count for nothing; the unchanged are counted once and not listed."""
    old = [rate("a", 1), rate("gone", 1)]
    new = [rate("a", 1), rate("new", 1, settings={"precision": "fp32"})]
    code, facts, table = compare(old, new)
    assert code == 0
    assert facts["only_old"] == ["loaders: gone"]
    assert facts["only_new"] == ["loaders: new, precision fp32"]
    assert "only in the old: loaders: gone" in table
    assert "only in the new: loaders: new, precision fp32" in table
    assert table.count("unchanged") == 1
    assert "unchanged: 1 of 1" in table


def test_many_rows_of_one_side_are_counted(compare: Compare) -> None:
    """What changed must not be lost among them."""
    new = [rate(name, 1) for name in "abcdefg"]
    _, facts, table = compare([rate("a", 1)], new)
    assert len(facts["only_new"]) == 6
    assert "only in the new: 6 rows (loaders: 6); the JSON line names them" in table
    assert "loaders: b" not in table


def test_settings_tell_rows_apart(compare: Compare) -> None:
    """The same name in another precision is another measurement."""
    old = [rate("a", 10, settings={"p": "fp32"}), rate("a", 90, settings={"p": "bf16"})]
    new = [rate("a", 90, settings={"p": "bf16"}), rate("a", 10, settings={"p": "fp32"})]
    assert verdicts(compare(old, new)[1]) == {"a, p fp32": "unchanged", "a, p bf16": "unchanged"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "NVIDIA H200"}, "GPU none -> NVIDIA H200"),
        ({"cpu": "another"}, "CPU some CPU -> another"),
        ({"num_cores": 16}, "number of cores 2 -> 16"),
    ],
)
def test_other_hardware_is_said_first(compare: Compare, change: dict[str, Any], words: str) -> None:
    """There a rate is no regression, and a ratio still is."""
    code, facts, table = compare([rate("a", 2)], [rate("a", 1)], **change)
    assert table.splitlines()[0] == f"other hardware: {words}"
    assert "slower (other hardware)" in table
    assert (code, facts["num_regressions"]) == (0, 0)
    assert compare([compared("a", 2)], [compared("a", 1)], **change)[0] == 1


def test_other_versions_are_said(compare: Compare) -> None:
    """What differs, and nothing else."""
    table = compare([rate("a", 1)], [rate("a", 1)], torch="2.12.0", commit="9", date="2027-01-01")[
        2
    ]
    assert (
        table.splitlines()[0] == "other versions: torch 2.11.0 -> 2.12.0, commit 0123456789ab -> 9"
    )
    assert "other" not in compare([rate("a", 1)], [rate("a", 1)], date="2027-01-01")[2]


def test_rows_of_the_same_hardware_are_compared() -> None:
    """Where there are several; of those the newest."""
    small, large = {"num_cores": 2}, {"num_cores": 16}
    old: list[Kept] = [
        *kept(rate("a", 30), **small, date="2026-11-21"),
        *kept(rate("a", 10), **small),
        *kept(rate("a", 90), **large),
    ]
    found = compare_rows(old, kept(rate("a", 30), **small), 0.05)
    assert [change.verdict for change in found.changes] == ["unchanged"]
    assert found.only_old == ["loaders: a"]  # on 16 cores
    assert found.remarks == ["measured again later: 1 rows are passed over"]


@pytest.mark.parametrize(
    "content",
    [
        "x\n",
        "[]\n",
        '{"case": "a"}\n',
        '{"case": "a", "name": "b", "unit": "c", "n": 1, "median": "7", "p20": 1, "p80": 1, '
        '"environment": {}}\n',
        '{"case": "a", "name": "b", "unit": "c", "n": 1, "median": NaN, "p20": 1, "p80": 1, '
        '"environment": {}}\n',
        '{"case": "a", "name": "b", "unit": "c", "n": 1, "median": 1, "p20": 1, "p80": Infinity, '
        '"environment": {}}\n',
        '{"case": "a", "name": "b", "unit": "c", "n": 1, "median": 1, "p20": 1, "p80": 1, '
        '"environment": 5}\n',
        '{"case": "a", "name": "b", "unit": "c", "n": 1, "median": 1, "p20": 1, "p80": 1, '
        '"ratios": {"d": null}, "environment": {}}\n',
    ],
)
def test_what_is_no_row_is_refused(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the file and the line, exit code 2."""
    good = written(tmp_path / "good.jsonl", rate("b", 1))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(good.read_text() + content)
    for pair in ((good, bad), (bad, good)):
        assert main(["bench", "compare", *map(str, pair)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"{bad}, line 2, " in captured.err
        assert captured.err.count("\n") == 1


def test_nothing_to_compare_is_refused(
    tmp_path: Path, compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in common, no rows, no such path: one line each."""
    code, _, err = compare([rate("a", 1)], [rate("b", 1)])
    assert (code, err.count("\n")) == (2, 1)
    assert "OLD and NEW must have a measurement in common. Found: 1 and 1 others." in err
    (tmp_path / "empty.jsonl").touch()
    for path, words in (("empty.jsonl", "Found: none in"), ("missing", "Found: no .jsonl at")):
        assert main(["bench", "compare", str(tmp_path / path), str(tmp_path / "old.jsonl")]) == 2
        assert words in capsys.readouterr().err
