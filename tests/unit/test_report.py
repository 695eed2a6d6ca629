"""`fastdeit report`: its numbers, its refusals, and that the page needs nothing but itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastdeit.errors import UserError
from fastdeit.tools.cli import main
from fastdeit.tools.report.command import report
from fastdeit.tools.report.inputs import load_run
from fastdeit.tools.report.plots import series
from fastdeit.tools.report.results import half_width_pct

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
HOSTILE = '<script>alert("x")</script>$\\frac{$'
HEADS = {
    "class": {"top1_pct": 69.5, "top5_pct": 93.0, "loss": 1.1},
    "dist": {"top1_pct": 70.5, "top5_pct": 93.5, "loss": 1.08},
    "joint": {"top1_pct": 71.33, "top5_pct": 94.0, "loss": 1.02},
}
ENVIRONMENT = {"num_classes": 20, "gpu": None, "num_params": 2_700_000}
BENCH: list[dict[str, Any]] = [
    {
        "case": "loaders",
        "name": "PIL",
        "unit": "img/s",
        "median": 480.0,
        "p20": 470.0,
        "p80": 490.0,
        "n": 5,
        "baseline": "PIL",
        "ratio": 1.0,
        "bound": 5700.0,
        "bound_what": "decoding",
        "frac_of_bound": 0.084,
        "environment": {"gpu": None},
    },
    {
        "case": "loaders",
        "name": "ffcv x3",
        "unit": "img/s",
        "median": 2011.0,
        "p20": 1980.0,
        "p80": 2050.0,
        "n": 5,
        "baseline": "PIL",
        "ratio": 4.19,
    },
    {"case": "step", "name": "student", "unit": "img/s", "median": None},
]

MakeRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run folder and returns it."""

    def make(
        name: str = "student",
        heads: dict[str, Any] | None = HEADS,
        environment: dict[str, Any] = ENVIRONMENT,
        recipe: str = "demo-student",
        tail: str = "",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows: list[dict[str, Any]] = [
            {
                "kind": "train",
                "epoch": (step - 1) // 20,
                "step": step,
                "loss": 3 - step / 50,
                "lr": 1e-4,
                "img_per_s": 310.0,
                "data_wait_frac": 0.02,
                "elapsed_s": float(step),
            }
            for step in range(10, 50, 10)
        ]
        if heads is not None:
            rows.append({"kind": "eval", "step": 40, "num_images": 600, "heads": heads})
        text = "".join(json.dumps(row) + "\n" for row in rows) + tail
        (folder / "metrics.jsonl").write_text(text)
        config = {
            "name": recipe,
            "data": {"image_size": 64, "val": "/data/val.beton"},
            "model": {"model": "deit_tiny", "depth": 4},
            "optim": {"epochs": 2},
            "command": ["fastdeit", "train", "a b"],
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps(environment))
        (folder / "augmented.png").write_bytes(PNG)
        return folder

    return make


def page_of(*folders: Path, **options: Any) -> str:
    """Write a report beside the first run and read it."""
    out = folders[0].parent / "report.html"
    assert report(folders, out=out, **options) == 0
    return out.read_text(encoding="utf-8")


def write_bench(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write benchmark rows to a file."""
    path = folder / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, its addresses and those in its style."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(value or "")
            self.addresses += re.findall(r"url\(['\"]?([^)'\"]*)", value or "")


def test_headline_gives_the_joint_head_against_chance(make_run: MakeRun) -> None:
    """The headline takes the joint head of the last evaluation and divides it by chance."""
    page = page_of(make_run())
    assert "Top-1 on val: 71.3% (joint head, 600 images), 14 times chance (5.0%)." in page
    assert "demo-student (deit_tiny, depth 4, 2.7 M parameters), trained for 2 epochs" in page
    assert "Stopped early" not in page
    assert "<pre>fastdeit train &#x27;a b&#x27;</pre>" in page


@pytest.mark.parametrize(
    ("top1_pct", "num_classes", "has_failed"),
    [(10.0, 20, True), (10.1, 20, False), (75.0, 2, True), (98.0, 2, False)],
)
def test_accuracy_near_chance_is_called_a_failure(
    make_run: MakeRun, top1_pct: float, num_classes: int, has_failed: bool
) -> None:
    """Top-1 that is not above twice chance is said to have failed to learn."""
    folder = make_run(
        heads={"class": {"top1_pct": top1_pct}}, environment={"num_classes": num_classes}
    )
    page = page_of(folder)
    assert ("Failed to learn: top-1 on val is" in page) is has_failed
    assert f"{top1_pct}% (class head, 600 images)" in page


def test_chance_is_not_guessed(make_run: MakeRun, capsys: Capture) -> None:
    """Without the number of classes chance is n/a on the page and null in the JSON."""
    assert "71.3% (joint head, 600 images); chance n/a" in page_of(make_run(environment={}))
    assert json.loads(capsys.readouterr().out)["runs"][0]["chance_pct"] is None


def test_evaluation_json_comes_before_the_last_line(make_run: MakeRun) -> None:
    """evaluation.json is reported where it exists, and a difference to the metrics is said."""
    folder = make_run()
    content = {"data": "val.beton", "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    page = page_of(folder)
    assert "Top-1 on val: 68.0% (joint head, 500 images), 14 times chance" in page
    assert "The last evaluation in training gave 71.3% (joint head)" in page


def test_evaluation_on_other_data_is_named(make_run: MakeRun) -> None:
    """Accuracy on another data set does not pass as accuracy on val."""
    folder = make_run()
    for dataset, name in [("/v2/val.beton", "/v2/val.beton"), ("data/val.beton", "val")]:
        content = {"dataset": dataset, "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
        (folder / "evaluation.json").write_text(json.dumps(content))
        assert f"Top-1 on {name}: 68.0%" in page_of(folder)


def test_half_width_agrees_with_the_quadratic() -> None:
    """The half width is that of the two proportions at which the score test is at its limit."""
    n, p, z = 600, 0.7133, 1.959964
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    expected = 100 * math.sqrt(b * b - 4 * a * c) / (2 * a)
    found = half_width_pct(100 * p, n)
    assert found == pytest.approx(expected, rel=1e-9), f"{found} against {expected}"
    assert found == pytest.approx(3.61, abs=0.01)
    assert half_width_pct(100.0, 600) == pytest.approx(0.318, abs=0.001)
    assert half_width_pct(50.0, None) is None


def test_heads_table_has_every_head(make_run: MakeRun) -> None:
    """The table lists top-1 and top-5 of class, dist and joint with their half widths."""
    page = page_of(make_run())
    for cells in ("69.5 <small>&plusmn; 3.7", "70.5 <small>&plusmn; 3.6", "94.0 <small>&plusmn; 1"):
        assert cells in page
    assert page.index("<td>class</td>") < page.index("<td>dist</td>") < page.index("<td>joint</td>")


def test_hostile_strings_are_escaped(make_run: MakeRun) -> None:
    """Markup in a title, recipe, head, benchmark or environment shows as text and runs nowhere."""
    folder = make_run(
        recipe=HOSTILE,
        heads={HOSTILE: {"top1_pct": 50.0}},
        environment={HOSTILE: HOSTILE, "engine": HOSTILE},
    )
    row = {
        "case": HOSTILE,
        "name": HOSTILE,
        "unit": HOSTILE,
        "median": 1.0,
        "baseline": HOSTILE,
        "bound_what": HOSTILE,
        "note": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
    }
    page = page_of(
        folder, title=HOSTILE, not_measured=(HOSTILE,), bench=(write_bench(folder, [row]),)
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10


def test_page_loads_nothing(make_run: MakeRun) -> None:
    """Every address in the page is a data URI or an id of the page itself, and ids are unique."""
    folder = make_run()
    page = page_of(folder, make_run("teacher"), bench=(write_bench(folder, BENCH),))
    (loads := Loads()).feed(page)
    assert page.count("<svg") == 7  # three panels for each run, one bar chart
    outside = [a for a in loads.addresses if not a.startswith(("data:", "#"))]
    assert not outside, outside
    assert "data:image/png;base64,iVBORw0KGgo" in page
    assert not loads.tags & {"script", "iframe", "object", "embed", "form"}
    assert not re.findall("https?:|@import", page)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {a[1:] for a in loads.addresses if a.startswith("#")} <= set(ids)


def test_same_inputs_give_the_same_bytes(make_run: MakeRun) -> None:
    """Writing a report again over itself leaves identical bytes and no other file."""
    folder = make_run()
    bench = (write_bench(folder, BENCH),)
    first = page_of(folder, bench=bench)
    assert page_of(folder, bench=bench) == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["report.html", "student"]


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
