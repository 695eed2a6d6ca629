"""`fastdeit report`: what it makes of damaged, missing and foreign files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fastdeit.errors import UserError
from fastdeit.measured.run import load_run
from fastdeit.tools.cli import main
from fastdeit.tools.report.command import report
from fastdeit.tools.report.plots import series
from report_runs import (
    BENCH,
    Capture,
    MakeRun,
    page_of,
    write_bench,
)


def test_cut_last_line_is_ignored_and_said(make_run: MakeRun) -> None:
    """A killed run's unfinished last line costs that line only, and the page says so."""
    page = page_of(make_run(tail='{"kind":"eval","heads":{"joint":{"top1_pct":9'))
    assert "The last line of metrics.jsonl is unfinished" in page
    assert "71.3%" in page


def test_finished_malformed_line_is_refused(make_run: MakeRun) -> None:
    """A malformed line that ends in a newline is refused with its file and number."""
    folder = make_run(tail='{"kind":"tr\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 6 must be one JSON object\. Found"):
        page_of(folder)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("[1]", "line 6 must be one JSON object"),
        ('{"step": 1}', "line 6: kind must be train or eval. Found: None"),
        ('{"kind":"train","step":"1"}', "line 6: step must be a number. Found: '1'"),
        ('{"kind":"train","step":null}', "line 6: step must be a number. Found: None"),
        ('{"kind":"train","step":true}', "line 6: step must be a number. Found: True"),
        ('{"kind":"train","step":NaN}', "line 6: step must be a number. Found: nan"),
        ('{"kind":"eval","step":50}', "line 6: heads must map"),
        (
            '{"kind":"eval","step":50,"heads":{"class":{"top1_pct":101}}}',
            "heads.class.top1_pct must be from 0 to 100. Found: 101",
        ),
    ],
)
def test_wrong_values_are_refused(make_run: MakeRun, line: str, text: str) -> None:
    """A line whose values cannot be used is refused with file, line, key and value."""
    with pytest.raises(UserError, match=re.escape(text)):
        page_of(make_run(tail=line + "\n"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head": 3}, "by_class.head must be a word. Found: 3"),
        (
            {"names": ["a"]},
            "must have as many names as correct and total. Found: [1, 2, 2]",
        ),
        (
            {"total": 2},
            "must have as many names as correct and total. Found: [2, 2, None]",
        ),
        ({"correct": [1, 4]}, "class 1 must have a name, and correct up to total. Found: 'b', 4"),
        ({"names": ["a", None]}, "class 1 must have a name, and correct up to total. Found: None"),
        ({"total": [0, 0], "correct": [0, 0]}, "by_class.total must count an image. Found: 0"),
        ({"confused": 3}, "by_class.confused must be a list. Found: 3"),
        ({"confused": [[0, 2, 1]]}, "by_class.confused must be two classes, and images of the"),
        ({"confused": [[0, 1, 9]]}, "confused must be two classes, and images of the first. Found"),
    ],
)
def test_classes_that_cannot_be(make_run: MakeRun, changes: dict[str, Any], text: str) -> None:
    """Counts of classes that contradict themselves are refused with their place."""
    folder = make_run()
    classes = {"head": "class", "weights": "raw", "names": ["a", "b"], "total": [2, 3]}
    classes |= {"correct": [1, 2], **changes}
    content = {"num_images": 5, "heads": {"class": {"top1_pct": 60.0}}, "by_class": classes}
    (folder / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(text)):
        page_of(folder)


def test_diverged_run_gets_a_page(make_run: MakeRun) -> None:
    """A loss that is not finite is drawn around and said, not refused."""
    page = page_of(make_run(tail='{"kind":"train","step":50,"loss":NaN}\n'))
    assert "The loss was not finite, first at step 50." in page
    assert series([{"step": 1, "x": math.nan}, {"step": 2, "x": 1.0}], "x") == ([2], [1.0])


def test_resumed_run_keeps_the_last_of_each_step(make_run: MakeRun) -> None:
    """Where a resumed run logged steps again, the earlier lines go, and the page says so."""
    folder = make_run(tail='{"kind":"train","step":30,"loss":9.0,"elapsed_s":1.0}\n')
    assert [row["step"] for row in load_run(folder).train] == [10, 20, 30]
    page = page_of(folder)
    assert "2 lines of metrics.jsonl are of steps that it took again" in page
    assert "<dt>elapsed</dt><dd>n/a</dd>" in page


def test_unevaluated_run_gets_a_page(make_run: MakeRun, capsys: Capture) -> None:
    """A run killed in its first epoch is reported without a result."""
    page = page_of(make_run(heads=None))
    assert "Top-1 on val: n/a, the run has no evaluation yet." in page
    assert "Stopped early: 0 of 2 epochs were evaluated." in page
    assert json.loads(capsys.readouterr().out)["runs"][0]["top1_pct"] is None


def test_only_the_metrics_are_needed(make_run: MakeRun) -> None:
    """Without configuration, environment and contact sheet the result is shown all the same."""
    folder = make_run()
    for name in ("config.json", "environment.json", "augmented.png"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "71.3%" in page
    assert "data:image/png" not in page
    (folder / "augmented.png").write_bytes(b"<svg>")
    with pytest.raises(UserError, match=r"augmented\.png must be a PNG image\. Found: '<svg>'"):
        page_of(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "must hold metrics.jsonl"), ("", "Found: none"), ("{", "Found: none")],
)
def test_no_metrics_are_refused(make_run: MakeRun, content: str | None, text: str) -> None:
    """A folder without a finished line of metrics is no run."""
    folder = make_run()
    (folder / "metrics.jsonl").unlink()
    if content is not None:
        (folder / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=re.escape(text)):
        page_of(folder)


def test_command_line_refuses_a_missing_run(tmp_path: Path, capsys: Capture) -> None:
    """A missing run is one line on stderr and exit code 2, and no page."""
    out = tmp_path / "r.html"
    assert main(["report", str(tmp_path / "none"), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none, which does not exist" in line
    assert not out.exists()
    assert main(["report"]) == 2


def test_command_line_writes_a_page(make_run: MakeRun, tmp_path: Path, capsys: Capture) -> None:
    """The program takes several runs and benchmark files, makes the folder and ends in JSON."""
    first, second, bench = make_run(), make_run("second"), str(tmp_path / "bench.jsonl")
    write_bench(tmp_path, BENCH)
    out = tmp_path / "new" / "deep" / "r.html"
    args = [str(first), str(second), "--bench", bench, "--bench", bench, "--out", str(out)]
    assert main(["report", *args, "--not-measured", "Speed of light"]) == 0
    printed = capsys.readouterr()
    last = json.loads(printed.out.splitlines()[-1])
    assert last["report"] == str(out)
    assert last["runs"][0] == {
        "name": "demo-student (student)",
        "top1_pct": 71.33,
        "chance_pct": 5.0,
        "head": "joint",
    }
    assert last["runs"][1]["name"] == "demo-student (second)"
    assert f"{out}: Top-1 on val: 71.3%" in printed.err
    page = out.read_text(encoding="utf-8")
    assert "<li>Speed of light</li>" in page
    assert "Table 5" not in page


def test_foreign_out_is_refused(make_run: MakeRun) -> None:
    """A file or folder that is no report of ours stays as it is."""
    folder = make_run()
    out = folder.parent / "report.html"
    out.write_text("<html>mine</html>")
    with pytest.raises(UserError, match="a file that `fastdeit report` did not write"):
        report((folder,), out=out)
    assert out.read_text() == "<html>mine</html>"
    with pytest.raises(UserError, match="a folder"):
        report((folder,), out=folder)


def test_failed_write_leaves_nothing(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the page cannot be put in place, the old one stays and the temporary file goes."""
    folder = make_run()
    before = page_of(folder)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match=r"--out cannot be written.*No space left"):
        page_of(folder, title="other")
    assert (folder.parent / "report.html").read_text(encoding="utf-8") == before
    assert len(list(folder.parent.iterdir())) == 2


def test_bench_table_has_baseline_ratio_and_bound(make_run: MakeRun) -> None:
    """The table marks the baseline, gives ratios and fractions, and n/a where there is none."""
    folder = make_run()
    page = page_of(folder, bench=(write_bench(folder, BENCH),))
    assert "<td>2,011</td><td>1,980 &ndash; 2,050</td><td>5</td><td>img/s</td><td>4.19 x" in page
    assert "<td>baseline</td><td>5,700 <small>decoding</small></td><td>8%</td>" in page
    assert "<td>n/a</td><td>n/a</td><td>n/a</td><td>img/s</td><td>n/a</td><td>n/a</td>" in page
    assert page.index("Loader rates") < page.index("Step rates")


def test_bench_file_is_checked(make_run: MakeRun) -> None:
    """A missing file, a malformed line and a number in words are refused; a cut line is said."""
    folder = make_run()
    with pytest.raises(UserError, match="--bench must be a file of JSON lines"):
        page_of(folder, bench=(folder / "none.jsonl",))
    (folder / "rows").mkdir()
    (folder / "rows" / "rows.jsonl").write_text(json.dumps(BENCH[0]) + "\n")
    assert BENCH[0]["name"] in page_of(folder, bench=(folder / "rows",))  # an --out folder
    path = write_bench(folder, [{"case": "step", "name": "x", "median": "fast"}])
    with pytest.raises(UserError, match=r"bench\.jsonl line 1: median must be a number"):
        page_of(folder, bench=(path,))
    path.write_text('{"case"\n{}\n')
    with pytest.raises(UserError, match=r"bench\.jsonl line 1 must be one JSON object"):
        page_of(folder, bench=(path,))
    path.write_text(json.dumps(BENCH[0]) + '\n{"case"')
    assert "The last line of bench.jsonl is unfinished" in page_of(folder, bench=(path,))


@pytest.mark.parametrize(
    ("environment", "gpu_is_listed", "imagenet_is_listed"),
    [
        ({"gpu": None, "num_classes": 20}, True, True),
        ({"gpu": "NVIDIA H200", "num_classes": 20}, False, True),
        ({"gpu": "NVIDIA H200", "device": "cpu"}, True, True),
        ({"num_classes": 1000}, False, False),
    ],
)
def test_not_measured_follows_the_environment(
    make_run: MakeRun, environment: dict[str, Any], gpu_is_listed: bool, imagenet_is_listed: bool
) -> None:
    """A GPU is listed where the run says it had none, ImageNet unless there were 1,000 classes."""
    page = page_of(make_run(environment=environment))
    assert ("<li>A GPU:" in page) is gpu_is_listed
    assert ("<li>Accuracy on ImageNet" in page) is imagenet_is_listed
    assert "Table 5 of the paper" in page
