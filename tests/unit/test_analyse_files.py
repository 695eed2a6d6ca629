"""`fastdeit analyse epochs` and `throughput`, which read what runs and benchmarks left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastdeit.measured.run import Run
from fastdeit.paper import table5
from fastdeit.paper.figure1 import Point, draw
from fastdeit.text.plots import new_figure
from fastdeit.tools.cli import main
from fastdeit.tools.evaluate.analyse.figure3 import lines_of, plot_epochs
from fastdeit.tools.evaluate.analyse.runs import Curve, RunCurves, read_runs
from fastdeit.tools.evaluate.analyse.voters import short_names, split_head

DISTILLED = "deit_base_distilled_patch16_224"
MakeFolder = Callable[..., Path]


def head(top1: float) -> dict[str, float]:
    """A head's scores."""
    return {"top1_pct": top1, "top5_pct": 95.0, "loss": 1.0}


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A function that writes a run's folder."""

    def make(
        name: str,
        rows: list[tuple[str, int, dict[str, float]]],
        epochs: int = 3,
        classes: int = 1000,
        **model: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [
            {
                "kind": kind,
                "epoch": epoch,
                "step": 10 * (epoch + 1),
                "num_images": 50,
                "heads": {each: head(top1) for each, top1 in heads.items()},
            }
            for kind, epoch, heads in rows
        ]
        text = json.dumps({"kind": "train", "step": 1, "epoch": 0, "loss": 2.0, "lr": 0.1}) + "\n"
        text += "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)
        config = {
            "data": {"image_size": 224},
            "model": {"model": DISTILLED, **model},
            "optim": {"epochs": epochs},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps({"num_classes": classes}))
        return folder

    return make


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[dict[str, Any], str]:
    """(the JSON object, what was written to stderr) of a command that does well."""
    assert main(list(map(str, line))) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]), captured.err


def refused(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    """The one line of a command that is refused."""
    assert main(["analyse", *map(str, line)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_epochs(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Each head's curve, raw and averaged, its best epoch, and the paper's figure at its length."""
    rows = [
        ("eval", 0, {"class": 10.0, "joint": 20.0}),
        ("eval_ema", 0, {"class": 5.0, "joint": 6.0}),
        ("eval", 1, {"class": 30.0, "joint": 50.0}),
        ("eval_ema", 1, {"class": 25.0, "joint": 36.0}),
        ("eval", 1, {"class": 31.0, "joint": 51.0}),  # the step was taken again after a resume
        ("eval", 2, {"class": 29.0, "joint": 83.0}),
    ]
    long, short = make_folder("long", rows, 1000), make_folder("short", rows[:1], 300, depth=4)
    facts, table = run(capsys, "analyse", "epochs", long, short, "--out", long.parent / "an")
    curves = {(c["weights"], c["head"]): c for c in facts["runs"]["long"]["curves"]}
    assert curves["raw", "joint"]["epochs"] == [1, 2, 3]
    assert curves["raw", "joint"]["top1_pct"] == [20.0, 51.0, 83.0]
    assert curves["ema", "class"]["top1_pct"] == [5.0, 25.0]
    assert list(curves) == [("raw", "class"), ("raw", "joint"), ("ema", "class"), ("ema", "joint")]
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "long raw class 3 of 1000 29.00 31.00 2 n/a" in lines
    assert "long raw joint 3 of 1000 83.00 83.00 3 84.2" in lines
    assert "short raw joint 1 of 300 20.00 20.00 1 n/a" in lines  # of another depth
    assert {row["top1_pct"] for row in facts["runs"]["long"]["paper"]} >= {83.4, 84.2}
    assert facts["runs"]["short"]["paper"] == []
    assert json.loads((long.parent / "an" / "epochs.json").read_text()) == facts
    with Image.open(long.parent / "an" / "epochs.png") as picture:
        both = picture.width
    run(capsys, "analyse", "epochs", short, "--out", long.parent / "an")
    with Image.open(long.parent / "an" / "epochs.png") as picture:
        assert picture.width < both  # nothing to set lengths against


def test_a_line_joins_the_means_of_runs(make_folder: MakeFolder) -> None:
    """Several runs of one length, such as those of other seeds, are one point of the line."""
    ends = ((1, 10.0), (1, 14.0), (2, 20.0))
    folders = [
        make_folder(f"run{n}", [("eval", epochs - 1, {"class": top1})], epochs)
        for n, (epochs, top1) in enumerate(ends)
    ]
    assert lines_of(read_runs(folders)) == [[(1, 12.0), (2, 20.0)]]
    assert lines_of(read_runs(folders[:2])) == []


def test_a_legend_of_many_runs_is_whole() -> None:
    """Long names and many runs, one panel or two, stay inside the picture."""
    for lengths in ((3, 3), (3, 4)):
        runs = [
            RunCurves(
                name=f"a_rather_long_name_of_a_run_with_options_{number}",
                run=Run(folder=Path(), config={"optim": {"epochs": lengths[number % 2]}}, rows={}),
                curves=tuple(
                    Curve(
                        weights=weights,
                        head=name,
                        epochs=(1, lengths[number % 2]),
                        top1_pct=(1.0, 2.0),
                    )
                    for weights in ("raw", "ema")
                    for name in ("class", "dist", "joint")
                ),
            )
            for number in range(12)
        ]
        figure = plot_epochs(runs)
        figure.canvas.draw()
        (legend,) = figure.legends
        is_explained = any("hollow" in text.get_text() for text in legend.get_texts())
        assert is_explained == (len(figure.axes) == 2)
        box, picture = legend.get_window_extent(), figure.bbox
        assert picture.x0 <= box.x0 and box.x1 <= picture.x1
        assert picture.y0 <= box.y0 and box.y1 < figure.axes[0].get_window_extent().y0


def test_runs_that_cannot_be_read(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No run, no metrics, no evaluation, no epoch, a file as the folder: one line each."""
    assert "at least one RUN. Found: none." in refused(capsys, "epochs")
    (tmp_path / "empty").mkdir()
    assert "must hold metrics.jsonl. Found: " in refused(capsys, "epochs", tmp_path / "empty")
    fresh = make_folder("fresh", [])
    assert "must hold an evaluation. Found: none in" in refused(capsys, "epochs", fresh)
    odd = make_folder("odd", [])
    row = {"kind": "eval", "step": 1, "num_images": 5, "heads": {"class": head(1.0)}}
    (odd / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert "epoch must be a number. Found: None." in refused(capsys, "epochs", odd)
    good = make_folder("good", [("eval", 0, {"class": 10.0})])
    file = good / "metrics.jsonl"
    assert "out must be a folder. Found: the file" in refused(capsys, "epochs", good, "--out", file)


def bench_rows(path: Path, *rates: tuple[str, int, str, float]) -> Path:
    """A file of rows as `fastdeit bench table5` writes them, and one of another benchmark."""
    rows = [
        {
            "case": "table5",
            "name": model,
            "unit": "img/s",
            "n": 30,
            "median": rate,
            "p20": rate,
            "p80": rate,
            "model": model,
            "image_size": size,
            "settings": {"protocol": protocol},
            "environment": {"gpu": "A GPU"},
        }
        for model, size, protocol, rate in rates
    ]
    rows.append({**rows[0], "case": "step", "median": 1.0})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluation(folder: Path, **facts: Any) -> Path:
    """An evaluation.json in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "model": DISTILLED,
        "image_size": 224,
        "set": "imagenet",
        "heads": {"class": head(80.0), "joint": head(83.0)},
    }
    (folder / "evaluation.json").write_text(json.dumps({**whole, **facts}))
    return folder


def test_throughput(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best head at the rates of its architecture, beside the paper's rate and accuracies."""
    one = evaluation(tmp_path / "one")
    ema = {"joint": head(83.5)}
    other = evaluation(tmp_path / "other", ema_heads=ema, image_size=384, set="none")
    bench = bench_rows(
        tmp_path / "rows.jsonl",
        (DISTILLED, 224, "fp32", 400.0),
        (DISTILLED, 224, "bf16", 1600.0),
        ("deit_base_distilled_patch16_384", 384, "fp32", 100.0),
        ("resnet18", 224, "fp32", 9000.0),
    )
    out = tmp_path / "an"
    paths = [one, other / "evaluation.json"]
    facts, text = run(capsys, "analyse", "throughput", *paths, "--bench", bench, "--out", out)
    first, second = facts["checkpoints"]
    assert (first["name"], first["head"], first["top1_pct"]) == ("one", "joint", 83.0)
    assert first["img_per_s"] == {"fp32": 400.0, "bf16": 1600.0}
    assert [(row["top1_pct"], row["img_per_s"]) for row in first["paper"]] == [
        (83.4, 290.9),
        (84.2, 290.9),
    ]
    assert (second["head"], second["top1_pct"], second["img_per_s"]) == (
        "joint-ema",
        83.5,
        {"fp32": 100.0},
    )
    assert facts["machines"] == ["A GPU"]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "one (joint) bf16 1,600 83.00 290.9 83.4 / 84.2" in lines
    assert "other: its accuracy is not of ImageNet's validation set; compare the rates" in text
    with Image.open(out / "throughput.png") as picture:
        both = picture.width
    # The folder of a benchmark; one protocol is one panel.
    bench_rows(out / "rows.jsonl", (DISTILLED, 224, "fp32", 400.0))
    line = ["analyse", "throughput", one, other, "--bench", out, "--out", out]
    facts, text = run(capsys, *line)
    assert facts["checkpoints"][1]["img_per_s"] == {}
    assert f"other: no row of {out / 'rows.jsonl'} is of {DISTILLED} at 384 pixels" in text
    with Image.open(out / "throughput.png") as picture:
        assert picture.width < both


def test_what_has_no_throughput(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No evaluation, no row of the model, a model of another shape, none named: one line each."""
    bench = bench_rows(tmp_path / "rows.jsonl", ("resnet18", 224, "fp32", 9000.0))
    with_bench = ("--bench", bench)
    one = evaluation(tmp_path / "one")
    assert "at least one RUN_OR_EVALUATION. Found: none." in refused(
        capsys, "throughput", *with_bench
    )
    assert "Found: no " in refused(capsys, "throughput", tmp_path, *with_bench)
    assert f"Found: none of {DISTILLED} at 224 px." in refused(
        capsys, "throughput", one, *with_bench
    )
    small = evaluation(tmp_path / "small", model_options={"depth": 4})
    assert "must be as timm builds it" in refused(capsys, "throughput", small, *with_bench)
    old = evaluation(tmp_path / "old", model=None)
    assert "must say of which model it is. Found: model None" in refused(
        capsys, "throughput", old, *with_bench
    )
    assert "--bench must be a file of JSON lines" in refused(
        capsys, "throughput", one, "--bench", tmp_path / "none.jsonl"
    )
    # An evaluation of an earlier version: the run's configuration names the model.
    (old / "config.json").write_text(json.dumps({"model": {"model": "resnet18"}}))
    facts, _ = run(capsys, "analyse", "throughput", old, *with_bench)
    assert facts["checkpoints"][0]["img_per_s"] == {"fp32": 9000.0}


def test_every_row_of_table_5_can_be_drawn(tmp_path: Path) -> None:
    """A benchmark of the whole table stands behind one's own checkpoint."""
    rates = [(row.timm, row.image_size, "fp32", 2 * row.throughput) for row in table5()]
    bench = bench_rows(tmp_path / "rows.jsonl", *rates)
    folder = evaluation(tmp_path / "one")
    line = ["analyse", "throughput", str(folder), "--bench", str(bench), "--out", str(tmp_path)]
    assert main(line) == 0
    assert (tmp_path / "throughput.png").read_bytes()[:4] == b"\x89PNG"


def test_no_star_lies_in_the_legend() -> None:
    """Where one's own checkpoints are, the legend is below the panel."""
    figure = new_figure(8.5, 6.2)
    axes = figure.subplots()
    rates = {row.name: row.throughput for row in table5()}
    draw(axes, "fp32", rates, [Point("weak", 20.0, 60.0)])
    figure.canvas.draw()
    legend = axes.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert box.y1 < axes.xaxis.label.get_window_extent().y0
    assert figure.bbox.y0 <= box.y0 and box.x1 <= figure.bbox.x1


def test_a_dollar_is_no_mathematics() -> None:
    """A run or checkpoint whose name matplotlib would take for a formula is drawn as it is."""
    name = "a$\\frac{$b"
    curve = Curve(weights="raw", head="class", epochs=(1, 2), top1_pct=(1.0, 2.0))
    run = RunCurves(name=name, run=Run(folder=Path(), rows={}), curves=(curve,))
    figure = plot_epochs([run])
    figure.canvas.draw()
    assert name in [text.get_text() for text in figure.legends[0].get_texts()]
    figure = new_figure(8.5, 6.2)
    draw(figure.subplots(), "fp32", {}, [Point(name, 20.0, 60.0)])
    figure.canvas.draw()


def test_names(tmp_path: Path) -> None:
    """Runs are named by their folders, by their paths where two share a name."""
    paths = [tmp_path / "a" / "checkpoint.pt", tmp_path / "a" / "best.pt"]
    assert short_names(paths) == ["a", "a/best"]
    evaluations = [tmp_path / "a" / "evaluation.json", tmp_path / "a" / "v2.json"]
    assert short_names(evaluations) == ["a", "a/v2"]
    assert short_names([tmp_path / "x.1" / "run", tmp_path / "v.2"]) == ["run", "v.2"]
    twice = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert short_names(twice) == list(map(str, twice))
    assert split_head("runs/a/checkpoint.pt:dist") == (Path("runs/a/checkpoint.pt"), "dist")
    assert split_head("runs/a/checkpoint.pt") == (Path("runs/a/checkpoint.pt"), None)
    assert split_head("a:b/checkpoint.pt") == (Path("a:b/checkpoint.pt"), None)
