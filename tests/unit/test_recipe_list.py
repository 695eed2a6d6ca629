"""`fastdeit train --list` and `--dry-run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.plan.order import Plan
from fastdeit.recipes import ENTRIES
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Every recipe is a line under its heading, with the paper's number and what it needs."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "--list"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.split()[:1]}
    for name, entry in ENTRIES.items():
        assert rows[name][1] == entry.model
        assert ("--teacher" in rows[name]) == entry.needs_teacher
        assert ("--init-from" in rows[name]) == entry.needs_init
        assert ("-" if entry.top1_pct is None else f"{entry.top1_pct:.1f}") == rows[name][5]
    assert rows["deit-b"][2:] == "300 224 1024 81.8 Table 5 -".split()
    needs = ["--teacher", "--init-from"]
    assert rows["deit-b-distilled-384"][2:] == ["30", "384", "512", "84.5", "Table", "5", *needs]
    assert lines.index("Teachers") < lines.index(next(x for x in lines if "regnety_040" in x))


def test_a_recipe_nearby_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe that is not known is one line with close matches and the way to all."""
    assert main(["train", "deit-b-distiled", "--train", "a"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no such recipe. Found: deit-b-distiled. Near it: deit-b-distilled, " in error
    assert "`fastdeit train --list`" in error


def dry_run(capsys: pytest.CaptureFixture[str], recipe: str, *options: str) -> tuple[Any, str]:
    """What a dry run prints on stdout, as JSON, and on stderr."""
    line = ["train", recipe, "--val", "none", "--out", "none", "--dry-run", *options]
    assert main(line) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_dry_run_of_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without data the paper's run is worked out: 1,251 steps, 427,008 images, 1e-3."""
    content, err = dry_run(capsys, "deit-ti", "--train", str(tmp_path / "none"))
    assert content["derived"] == {
        "peak_lr": pytest.approx(1e-3),
        "steps_per_epoch": 1251,
        "num_steps": 375_300,
        "images_per_epoch": 1_281_024,
        "distinct_images_per_epoch": 427_008,
        "num_train_images": 1_281_167,
        "num_train_images_from": f"the size of ImageNet, for {tmp_path / 'none'} does not exist",
        "num_processes": 1,
        "images_per_process": 1024,
        "images_at_once": 1024,
        "num_classes": 1000,
        "num_params": 5_717_416,
    }
    assert (content["data"]["batch_size"], content["optim"]["epochs"]) == (1024, 300)
    assert err == ""


def test_dry_run_in_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step is shared by torchrun's processes, and cut by --accumulate; one of them prints."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "0")
    derived = dry_run(capsys, "deit-ti", "--train", "none", "--accumulate", "3")[0]["derived"]
    assert derived["num_processes"] == 8
    assert (derived["images_per_process"], derived["images_at_once"]) == (128, 43)
    assert derived["steps_per_epoch"] == 1251
    monkeypatch.setenv("RANK", "3")
    assert main("train deit-ti --train a --val b --out c --dry-run".split()) == 0
    assert capsys.readouterr().out == ""


def test_dry_run_of_a_dataset(
    containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """With data the numbers are the dataset's, as the plan of training makes them."""
    path = containers["beton"]
    options = ["--train", str(path), "--batch-size", "64", "--epochs", "7", "--repeats", "3"]
    content, err = dry_run(capsys, "deit-ti", *options)
    derived = content["derived"]
    plan = Plan(
        keys=open_dataset(path).keys, batch_size=64, image_size=224, is_training=True, repeats=3
    )
    samples = np.concatenate([step.samples for step in plan.steps(0)])
    assert derived["num_train_images"] == len(plan.keys) == 300
    assert derived["num_train_images_from"] == f"the dataset {path}"
    assert derived["steps_per_epoch"] == len(list(plan.steps(0))) == 4
    assert derived["num_steps"] == 28
    assert derived["images_per_epoch"] == len(samples) == 256
    assert derived["distinct_images_per_epoch"] == len(set(samples.tolist())) == 86
    assert derived["num_classes"] == 20
    assert derived["peak_lr"] == pytest.approx(5e-4 * 64 / 512)
    assert err == (
        "fastdeit: warning: a step has 64 images, not the 1,024 of the paper's Table 9; the peak "
        "learning rate is 6.25e-05 (base_lr 0.0005 x 64 / 512).\n"
    )


def test_dry_run_says_that_the_rate_is_not_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    """An unscaled rate is the one given, whatever the batch."""
    content, err = dry_run(capsys, "vit-b", "--train", "none")
    assert content["derived"]["peak_lr"] == 3e-3
    assert content["derived"]["distinct_images_per_epoch"] == 312 * 4096
    assert "a step has 4,096 images" in err
    assert "learning rate is 0.003 (base_lr as given, not scaled by the batch)" in err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--model", "densenet121"], "drop_path has no effect in densenet121"),
        (["--model", "deit_tiny"], "model is not one of timm"),
        (["--train", "{tmp}"], "source must hold one folder a class"),
    ],
)
def test_dry_run_refuses_what_training_would(
    options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that cannot be built and data that cannot be read are found without training."""
    line = "train deit-ti --train none --val b --out c --dry-run".split()
    assert main([*line, *(option.format(tmp=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error


def test_any_timm_model_with_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A convnet takes DeiT's recipe as it is."""
    content, _ = dry_run(capsys, "deit-b", "--train", "none", "--model", "resnet50")
    assert content["derived"]["num_params"] == 25_557_032


@pytest.mark.parametrize(("recipe", "option"), [("deit-b-384", "--init-from"), ("demo", "teacher")])
def test_required_paths_are_asked_for(
    recipe: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser asks for the teacher and the weights that a recipe cannot do without."""
    with pytest.raises(SystemExit) as stop:
        main(["train", recipe, "--train", "a", "--val", "b", "--out", "c"])
    assert stop.value.code == 2
    assert option in capsys.readouterr().err
