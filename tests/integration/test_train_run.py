"""From converted data to a trained, distilled and evaluated model, through the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_images import CUT_OFF, NO_JPEG, with_bad_images
from nightly import nightly

from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.cli import main
from fastdeit.training import loop as train_module
from fastdeit.training.loop import train

ENGINES = [
    pytest.param("ffcv", marks=pytest.mark.ffcv),
    pytest.param("dali", marks=pytest.mark.dali),
]
SHORT = ["--epochs", "2", "--warmup-epochs", "1", "--batch-size", "64", "--log-every-steps", "2"]


def run(recipe: str, containers: dict[str, Path], out: Path, *options: str) -> int:
    """`fastdeit train` on the small sample data."""
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    return main(["train", recipe, *data, "--out", str(out), *SHORT, *options])


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The last line on stdout."""
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def teacher(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's run, read by PIL."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    assert run("demo-teacher", containers, out, "--engine", "pil") == 0
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The model of a run."""
    model: dict[str, torch.Tensor] = load_checkpoint(path / "checkpoint.pt")["model"]
    return model


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_train_the_same_model(
    engine: str, containers: dict[str, Path], teacher: Path, tmp_path: Path
) -> None:
    """Trained through FFCV or DALI, every weight is that of the run through PIL, bit for bit."""
    assert run("demo-teacher", containers, tmp_path / "run", "--engine", engine) == 0
    expected = weights(teacher)
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, expected[name]), name


def test_a_distilled_run_from_end_to_end(
    containers: dict[str, Path], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student learns from the teacher; metrics, pictures and evaluation are all there."""
    out = tmp_path / "student"
    checkpoint = str(teacher / "checkpoint.pt")
    assert run("demo", containers, out, "--engine", "pil", "--teacher", checkpoint) == 0
    result = last_json(capsys)
    assert set(result["heads"]) == {"class", "dist", "joint"}
    assert result["num_images"] == 40

    names = {path.name for path in out.iterdir()}
    assert names == {
        ".lock", "augmented.png", "best.pt", "checkpoint-step00000004.pt", "checkpoint.pt",
        "config.json", "environment.json", "metrics.jsonl",
    }  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [4, 8]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4, 6, 8]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < losses[0]

    averaged = [row for row in rows if row["kind"] == "eval_ema"]
    assert [row["step"] for row in averaged] == [4, 8]
    assert averaged[-1]["heads"] == result["ema_heads"]
    assert result["ema_heads"]["class"]["loss"] != result["heads"]["class"]["loss"]
    line = ["evaluate", str(out / "checkpoint.pt"), str(containers["val"]), "--weights", "ema"]
    assert main(line) == 0
    again = last_json(capsys)
    assert again["weights"] == "ema"
    for head, score in result["ema_heads"].items():
        assert again["heads"][head]["loss"] == pytest.approx(score["loss"], rel=1e-5)
    (out / "evaluation.json").unlink()
    line[1] = checkpoint
    assert main(line) == 2
    assert "must hold averaged weights. Found: none" in capsys.readouterr().err

    # Evaluating the checkpoint again, out of the shards' folder too, gives the same numbers.
    assert main(["evaluate", str(out / "checkpoint.pt"), str(containers["val"])]) == 0
    again = last_json(capsys)
    for head, score in result["heads"].items():
        assert again["heads"][head]["top1_pct"] == score["top1_pct"]
        assert again["heads"][head]["loss"] == pytest.approx(score["loss"], rel=1e-5)
    kept = json.loads((out / "evaluation.json").read_text())
    assert sum(kept.pop("by_class")["total"]) == 40
    assert kept == again


def three_epochs(teacher: Path) -> list[str]:
    """A distilled run that goes on where it was stopped."""
    more = ["--engine", "pil", "--epochs", "3", "--drop-path", "0.3", "--resume", "auto"]
    more += ["--depth", "3"]
    return [*more, "--teacher", str(teacher / "checkpoint.pt")]


@pytest.fixture(scope="module")
def whole(
    containers: dict[str, Path], teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run("demo", containers, out, *three_epochs(teacher)) == 0
    return out


@pytest.mark.parametrize("stop_at", [3, pytest.param(6, marks=nightly), 8])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    stop_at: int,
    containers: dict[str, Path],
    teacher: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped in any epoch and resumed, weights, averages and metrics are the same bit for bit."""
    more, stopped = three_epochs(teacher), tmp_path / "stopped"
    real, calls = train_module.train_step, 0

    def step(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_module, "train_step", step)
    assert run("demo", containers, stopped, *more) == 130
    monkeypatch.undo()
    assert run("demo", containers, stopped, *more) == 0
    for part in ("model", "ema"):
        expected = load_checkpoint(whole / "checkpoint.pt")[part]
        for name, value in load_checkpoint(stopped / "checkpoint.pt")[part].items():
            assert torch.equal(value, expected[name]), (part, name)
    rows = []
    for out in (whole, stopped):
        lines = (out / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    keys = ("kind", "epoch", "step", "loss", "lr", "heads")
    for one, other in zip(*rows, strict=True):
        assert [one.get(key) for key in keys] == [other.get(key) for key in keys]
    elapsed = [row["elapsed_s"] for row in rows[1]]
    assert elapsed == sorted(elapsed)

    capsys.readouterr()
    assert run("demo", containers, stopped, *more) == 0
    again = capsys.readouterr()
    assert "has ended: all 3 epochs are done" in again.err
    result = json.loads(again.out)
    assert result["heads"] == rows[0][-2]["heads"]
    assert result["ema_heads"] == rows[0][-1]["heads"]
    assert run("demo", containers, stopped, *more, "--seed", "1") == 2
    assert "Found: run.seed 1, before 0." in capsys.readouterr().err


def test_a_run_is_not_written_over(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run in the folder of another needs --overwrite; a foreign folder is never touched."""
    before = (teacher / "checkpoint.pt").read_bytes()
    for wrong in (["--teacher", "nope.pt"], ["--teacher", str(teacher / "checkpoint.pt")]):
        code = run("demo", containers, teacher, "--engine", "pil", "--overwrite", *wrong)
        assert code == 2
        assert (teacher / "checkpoint.pt").read_bytes() == before
    assert "teacher must not lie in the folder of the run" in capsys.readouterr().err
    assert run("demo-teacher", containers, teacher, "--engine", "pil") == 2
    assert "Pass --resume auto to go on, --overwrite to replace it" in capsys.readouterr().err
    assert (teacher / "checkpoint.pt").read_bytes() == before
    (tmp_path / "precious.txt").write_text("keep me")
    assert run("demo-teacher", containers, tmp_path, "--overwrite") == 2
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_teacher_of_other_classes_is_refused(
    containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint with other classes cannot teach, and evaluating it on these is refused."""
    from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
    from fastdeit.config import ModelConfig
    from fastdeit.models import make_model
    from fastdeit.pipelines.datasets.index import open_dataset

    config = ModelConfig(
        model="deit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=1, num_heads=2
    )
    path = tmp_path / "teacher.pt"
    classes = open_dataset(containers["val"]).classes
    save_checkpoint(path, checkpoint_content(make_model(config, 20, 32), config, 32, classes))
    line = ("--teacher", str(path), "--engine", "pil")
    assert run("demo", containers, tmp_path / "run", *line, "--teacher-image-size", "64") == 2
    assert "must be the transformer's own (32). Found: 64" in capsys.readouterr().err
    content = checkpoint_content(make_model(config, 2, 64), config, 64, Classes(("cat", "dog")))
    save_checkpoint(path, content)
    code = run("demo", containers, tmp_path / "run", "--teacher", str(path), "--engine", "pil")
    assert code == 2
    assert "teacher must know the classes of the training set (20)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["evaluate", str(path), str(containers["val"])]) == 2
    assert "dataset must have the 2 classes of the checkpoint. Found: " in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(
    containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that blows up ends with steps, rate and way out, and no false checkpoint."""
    out = tmp_path / "run"
    code = run("demo-teacher", containers, out, "--base-lr", "1e30", "--engine", "pil")
    assert code == 1
    assert "loss must be finite. Found: nan at step" in capsys.readouterr().err
    assert not (out / "checkpoint.pt").exists()


def test_dry_run_prints_the_configuration(
    containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--dry-run prints what would run and makes nothing."""
    assert run("demo-teacher", containers, tmp_path / "run", "--dry-run") == 0
    config = json.loads(capsys.readouterr().out)
    assert config["data"]["batch_size"] == 64
    assert config["optim"]["epochs"] == 2
    assert list(tmp_path.iterdir()) == []


def test_two_hops_to_the_step() -> None:
    """`fastdeit train` calls `train`, which calls `train_step`."""
    import fastdeit.tools.train.command as command

    assert "run_training" in command.train.__code__.co_varnames
    assert "train_step" in train.__code__.co_names


@pytest.mark.parametrize("engine", ENGINES)
def test_training_goes_on_without_bad_images(
    engine: str,
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--bad-images skip trains and evaluates to the end, and says how many were replaced."""
    index = open_dataset(containers["val"])
    bad = with_bad_images(index, tmp_path / "data", {3: NO_JPEG, 20: CUT_OFF})
    data = {"beton": containers["beton"], "val": bad}
    options = ["--engine", engine, "--epochs", "1", "--warmup-epochs", "0"]
    assert run("demo-teacher", data, tmp_path / "stops", *options) == 2
    assert "an image does not decode" in capsys.readouterr().err
    assert run("demo-teacher", data, tmp_path / "run", *options, "--bad-images", "skip") == 0
    assert last_json(capsys)["images_replaced"] == 2
    checkpoint = str(tmp_path / "run" / "checkpoint.pt")
    asked = ["evaluate", checkpoint, str(bad), "--engine", engine, "--bad-images", "skip"]
    assert main(asked) == 0
    assert last_json(capsys)["images_replaced"] == 2


def test_options_of_the_crops(containers: dict[str, Path], tmp_path: Path) -> None:
    """A run at 32 pixels with padded crops, bilinear, in upstream's order, without repeats."""
    options = ["--engine", "pil", "--epochs", "1", "--warmup-epochs", "0", "--image-size", "32"]
    options += ["--train-crop", "resized", "--interpolation", "bilinear", "--compat", "upstream"]
    assert run("demo-teacher", containers, tmp_path / "run", *options) == 0


def test_options_of_the_loop(
    containers: dict[str, Path], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How often rows come, what is kept, the budget and the seed act as they say."""
    out = tmp_path / "run"
    more = ["--log-every-steps", "3", "--keep-checkpoints", "1", "--budget-hours", "1e-9"]
    assert run("demo-teacher", containers, out, "--engine", "pil", *more, "--seed", "1") == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [3, 4, 6, 8]
    assert trained[-1]["in_budget"] is False
    before = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
    assert [row["in_budget"] for row in before if row["kind"] == "train"][-1] is True
    assert sorted(path.name for path in out.glob("*.pt")) == ["best.pt", "checkpoint.pt"]
    one, two = weights(out), weights(teacher)
    assert any(not torch.allclose(value, two[name], atol=1e-2) for name, value in one.items())
    assert "peak learning rate 0.00375" in capsys.readouterr().err
    assert run("demo-teacher", containers, out, "--overwrite", "--device", "cuda:7") == 2
    assert "device cuda:7 is not there" in capsys.readouterr().err
    assert (out / "checkpoint.pt").exists()
