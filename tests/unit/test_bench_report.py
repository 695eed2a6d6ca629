"""`fastdeit bench report` says what the kept rows say, in the same bytes each time."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_rows import BASELINE, H200, compared, kept, rate, written

from fastdeit.benchmarks.cases.step import STEP
from fastdeit.benchmarks.reporting.readme_table import BEGIN, END, readme_table, with_table
from fastdeit.benchmarks.reporting.report import (
    BENCHMARKS,
    HEAD,
    PLANNED,
    REPORT,
    RESULTS,
    report_text,
)
from fastdeit.measured.rows import Kept, Row, read_all, with_bound
from fastdeit.tools.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def one(*rows: Row, **environment: Any) -> dict[str, list[Kept]]:
    """A file of rows."""
    return {"a.jsonl": kept(*rows, **environment)}


def line_of(text: str, start: str) -> list[str]:
    """The cells of the only line of a table that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


# ---- the report in the repository --------------------------------------------------------------
def test_the_report_in_the_repository_is_that_of_the_kept_rows() -> None:
    """Byte for byte; else run `fastdeit bench report --readme README.md`."""
    assert (ROOT / REPORT).read_bytes() == report_text(read_all(ROOT / RESULTS)).encode()


def test_the_readme_has_the_table_of_the_kept_rows() -> None:
    """Likewise."""
    readme = (ROOT / "README.md").read_text()
    assert with_table(readme, readme_table(read_all(ROOT / RESULTS))) == readme


def test_the_order_of_the_files_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the folder nor in what is given."""
    files = read_all(ROOT / RESULTS)
    text, table = report_text(files), readme_table(files)
    for seed in range(3):
        names = list(files)
        random.Random(seed).shuffle(names)
        shuffled = {name: files[name] for name in names}
        assert report_text(shuffled) == text
        assert readme_table(shuffled) == table
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, what: sorted(glob(path, what), reverse=True))
    assert report_text(read_all(ROOT / RESULTS)) == text


# ---- what it says -------------------------------------------------------------------------------
def test_a_row_has_its_spread_ratio_bound_and_notes() -> None:
    """With units; the baseline is 1 to itself; what is not known is n/a; notes are numbered."""
    ours = replace(with_bound(compared("fastdeit", 2, 1234.5), 2469, "a | wall"), note="a note")
    base, third = rate(BASELINE, 617), rate("a third", 5, note="a note")
    text = report_text(one(ours, base, third))
    assert line_of(text, "fastdeit") == [
        "fastdeit <sup>1</sup>",
        "1,234 img/s",
        "1,222 to 1,247",
        "5",
        "2.00 (1.98 to 2.02)",
        "50% of 2,469 <sup>2</sup>",
    ]
    assert line_of(text, BASELINE)[4:] == ["1", "n/a"]
    assert line_of(text, "a third")[0] == "a third <sup>1</sup>"
    assert line_of(text, "a third")[4:] == ["n/a", "n/a"]
    assert "\n1. a note\n2. a \\| wall\n" in text


def test_older_rows_with_one_ratio_have_it() -> None:
    """They did not name several baselines yet."""
    text = report_text(one(rate(BASELINE, 1), rate("a", 2, baseline=BASELINE, ratio=2.0)))
    assert f"x {BASELINE} |" in text
    assert line_of(text, "a ")[-1] == "2.00"


def test_one_round_has_no_spread_and_what_no_row_has_is_named() -> None:
    """And the columns are left out."""
    text = report_text(one(rate("a", 500, unit="MB", n=1, case="memory of a rank")))
    assert line_of(text, "a ") == ["a", "500 MB", "n/a", "1"]
    assert "No baseline and no bound." in text


def test_pairs_share_a_column() -> None:
    """Where each row has a baseline of its own."""
    rows = [
        rate("theirs: x", 1),
        rate("ours: x", 2, ratios={"theirs: x": 2.0}, baseline="theirs: x", ratio=2.0),
        rate("theirs: y", 1),
        rate("ours: y", 3, ratios={"theirs: y": 3.0}, baseline="theirs: y", ratio=3.0),
    ]
    text = report_text(one(*rows))
    assert line_of(text, "ours: y")[-2:] == ["3.00", "theirs: y"]
    assert line_of(text, "theirs: y")[-2:] == ["1", "itself"]


def test_a_step_has_its_parts_mfu_wait_memory_and_the_papers_figure() -> None:
    """In columns that other rows do not have."""
    row = rate(
        STEP,
        100,
        case="step: deit-b, batch 8",
        mfu=0.5,
        peak_what="989 TFLOP/s, the datasheet",
        data_wait_frac=0.25,
        gpu_memory_gib=12.34,
        step_ms=80.0,
        paper=50.0,
        paper_what="Table 5, V100",
        phases_ms={"forward": 30.0, "backward": 45.5},
    )
    text = report_text(one(row, **H200))
    header = "MFU | the paper's | ms/step | data wait | GPU GiB |"
    assert header in text
    assert "| 50% <sup>1</sup> | 50; x 2.00 <sup>2</sup> | 80 | 25% | 12.3 |" in text
    assert "1. 989 TFLOP/s, the datasheet\n2. Table 5, V100\n" in text
    assert (
        f"| what | forward | backward | sum |\n|---|---|---|---|\n| {STEP} | 30 | 45.5 | 75.5 |"
        in text
    )


def test_hardware_versions_and_dirt_are_listed() -> None:
    """A line for each environment of each file; versions that all share stand below."""
    files = one(rate("a", 1)) | {
        "b.jsonl": [
            *kept(rate("a", 1), dirty=True, torch="2.12.0"),
            *kept(rate("b", 1), **H200, gpu_power_limit_w=700.0),
        ]
    }
    text = report_text(files)
    lines = [line for line in text.splitlines() if line.startswith(("| `a.jsonl`", "| `b.jsonl`"))]
    assert len(lines) == 3
    assert "0123456789ab, dirty | torch 2.12.0 |" in lines[1]
    assert "| NVIDIA H200, 700 W | some CPU | 16 | 16.0 | cuda |" in lines[2]
    assert "Everywhere: n/a." in text
    assert "Everywhere: torch 2.11.0." in report_text(one(rate("a", 1)))


@pytest.mark.parametrize("name", PLANNED)
def test_what_is_missing_is_said(name: str) -> None:
    """For each benchmark, on a GPU and on a CPU."""
    case = BENCHMARKS[name][0][0]
    row = rate("a", 1, case=f"{case}, with something")
    section = "## Not measured yet"
    gone = report_text(one(row)).partition(section)[2]
    assert line_of(gone, f"{name} |")[-2:] == ["**not measured**", "measured"]
    gone = report_text(one(row, **H200)).partition(section)[2]
    assert line_of(gone, f"{name} |")[-2:] == ["measured", "**not measured**"]
    both = {**one(row), "b.jsonl": kept(row, **H200)}
    assert f"| {name} |" not in report_text(both).partition(section)[2]


def test_a_step_on_the_cpu_of_a_gpus_machine_is_none_on_a_gpu() -> None:
    """A loader there is measured with a GPU: it works on the host."""
    machine = {**H200, "device": "cpu"}
    rows = [rate("a", 1, case="step: demo"), rate("a", 1, case="loaders, 16 cores")]
    gone = report_text(one(*rows, **machine)).partition("## Not measured yet")[2]
    assert line_of(gone, "step |")[-2:] == ["**not measured**", "measured"]
    assert line_of(gone, "loaders |")[-2:] == ["measured", "**not measured**"]


def test_everything_measured_is_said_too() -> None:
    """Then there is no table of what is missing."""
    rows = [rate("a", 1, case=BENCHMARKS[name][0][0]) for name in PLANNED]
    text = report_text({"a": kept(*rows), "b": kept(*rows, **H200)})
    assert "Every benchmark has rows with a GPU and without one." in text


# ---- the README's table -------------------------------------------------------------------------
def test_the_readmes_table_takes_the_newest_of_a_gpu() -> None:
    """The main rows with hardware, ratios and bound; the fastest engine; the rest is missing."""
    fast = with_bound(compared("fastdeit ffcv, 3 copies", 3.0, 500), 1000, "decoding")
    slow = compared("fastdeit dali, 3 copies", 2.0, 400)
    files = {
        "a": kept(replace(fast, median=900), **H200, date="2026-01-01"),
        "b": kept(slow, fast, rate("fastdeit ffcv", 800), **H200),
        "c": kept(replace(fast, median=700), date="2027-01-01"),
    }
    table = readme_table(files)
    assert line_of(table, "loaders") == [
        "loaders: fastdeit ffcv, 3 copies",
        "500 img/s (495 to 505)",
        "NVIDIA H200, some CPU, 16 cores",
        f"3.00 x {BASELINE}",
        "50% of 1,000: decoding",
    ]
    for topic in ("augmentation", "training step", "training end", "inference", "conversion"):
        assert line_of(table, topic)[1:] == ["not measured", "n/a", "n/a", "n/a"]


def test_the_readmes_table_has_each_topic() -> None:
    """Steps, end to end, Table 5 of DeiT-B, the whole stage, conversion."""
    rows = [
        rate("fastdeit: the whole stage", 1, case="augment"),
        rate(STEP, 2, case="step: deit-b, batch 256"),
        rate(STEP, 3, case="step: deit-s, batch 256"),
        rate("fastdeit augmentation alone", 9, case="step: deit-s, batch 256"),
        rate(f"{STEP} from files (ffcv)", 4, case="end-to-end: x, batch 256"),
        rate("fp32", 5, case="table5", model="deit_base_patch16_224"),
        rate("fp32", 9, case="table5", model="deit_tiny_patch16_224"),
        rate("fastdeit convert, .beton, pass-through", 6, case="convert"),
        rate("bare copy of the files", 9, case="convert"),
    ]
    table = readme_table(one(*rows, **H200))
    cells = [line.split(" | ")[1].split(" ")[0] for line in table.splitlines()[2:]]
    assert cells == ["not", "1", "2", "3", "4", "5", "6"]


def test_the_command_replaces_report_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes when it is done again; what is hand-written stays."""
    results = tmp_path / "results"
    written(results / "a.jsonl", rate("a", 1))
    out, readme = tmp_path / "REPORT.md", tmp_path / "README.md"
    readme.write_text(README)
    line = ["bench", "report", str(results), "--out", str(out), "--readme", str(readme)]
    assert main(line) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["num_rows"], facts["files"]) == (1, ["a.jsonl"])
    first = out.read_bytes(), readme.read_bytes()
    assert first[0].decode() == report_text(read_all(results))
    assert first[1].decode() == with_table(README, readme_table(read_all(results)))
    assert first[1].startswith(b"before\n") and first[1].endswith(b"\nafter\n")
    assert main(line) == 0
    assert (out.read_bytes(), readme.read_bytes()) == first


@pytest.mark.parametrize(
    "text",
    ["none", f"{END} {BEGIN}", BEGIN, f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"],
)
def test_a_readme_without_its_comments_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and nothing is written."""
    results = written(tmp_path / "a.jsonl", rate("a", 1))
    out, readme = tmp_path / "REPORT.md", tmp_path / "README.md"
    readme.write_text(text)
    line = ["bench", "report", str(results), "--out", str(out), "--readme", str(readme)]
    assert main(line) == 2
    assert "the README must hold <!-- bench:begin -->" in capsys.readouterr().err
    assert not out.exists()
    assert readme.read_text() == text


def test_only_a_report_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file at --out stays."""
    results = written(tmp_path / "a.jsonl", rate("a", 1))
    out = tmp_path / "thesis.md"
    out.write_text("years of work")
    assert main(["bench", "report", str(results), "--out", str(out)]) == 2
    assert "which is something else" in capsys.readouterr().err
    assert out.read_text() == "years of work"
    out.write_text(f"{HEAD}\nold")
    assert main(["bench", "report", str(results), "--out", str(out)]) == 0
