"""Transfer: Tables 6 and 7 cell by cell, the authors' settings, where the data comes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from fastdeit import UserError
from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import load_checkpoint, save_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.config.data import Dataset
from fastdeit.paper.transfer import dataset_row
from fastdeit.recipes import ENTRIES, RECIPES, fill_recipe
from fastdeit.recipes.transfer import SOURCES, TARGETS
from fastdeit.tools.cli import main
from fastdeit.tools.train.dry_run import ROOTS

pytestmark = pytest.mark.slow  # as a whole

WHERE = Path("x")
# Table 7 as printed, by hand from the paper.
TABLE_7 = {
    "deit-b": (99.1, 90.8, 98.4, 92.1, 73.2, 77.7),
    "deit-b-384": (99.1, 90.8, 98.5, 93.3, 79.5, 81.4),
    "deit-b-distilled": (99.1, 91.3, 98.8, 92.9, 73.7, 78.4),
    "deit-b-distilled-384": (99.2, 91.4, 98.9, 93.9, 80.1, 83.0),
}
DATASETS: tuple[Dataset, ...] = ("cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19")
# Table 6: training images, test images, classes.
TABLE_6 = {
    "imagenet": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "flowers102": (2_040, 6_149, 102),
    "cars": (8_144, 8_041, 196),
    "inat18": (437_513, 24_426, 8_142),
    "inat19": (265_240, 3_003, 1_010),
}
SGD = {
    "optim.optimizer": "sgd",
    "optim.base_lr": 0.01,
    "optim.scale_lr": False,
    "optim.weight_decay": 1e-4,
    "optim.epochs": 1000,
    "augment.erase_prob": 0.0,
    "model.drop_path": 0.0,
}
INATURALIST = {"optim.base_lr": 5e-5, "optim.epochs": 360, "augment.erase_prob": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": SGD,
    "cifar100": {"optim.base_lr": 5e-6, "optim.epochs": 1000, "augment.erase_prob": 0.0},
    "flowers102": SGD,
    "cars": SGD,
    "inat18": INATURALIST,
    "inat19": INATURALIST,
}


def flat(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration with dotted names."""
    return {
        f"{part}.{name}": value
        for part, values in dataclasses.asdict(config).items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }


def test_every_cell_of_table_7() -> None:
    """Four models on six datasets, with the paper's accuracies."""
    found = {s: tuple(ENTRIES[f"{s}-{d}"].top1_pct for d in DATASETS) for s in SOURCES}
    assert found == TABLE_7
    assert tuple(target.dataset for target in TARGETS) == DATASETS


def test_every_row_of_table_6() -> None:
    """The datasets have the paper's sizes, and each has a source."""
    assert get_args(Dataset) == tuple(TABLE_6) == tuple(ROOTS)
    for name, sizes in TABLE_6.items():
        row = dataset_row(name)  # type: ignore[arg-type]
        assert (row.train, row.test, row.classes) == sizes


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("source", SOURCES)
def test_the_authors_settings(source: str, dataset: str) -> None:
    """A recipe is Table 9 with the settings of the issues, and nothing else."""
    ours = flat(fill_recipe(f"{source}-{dataset}", WHERE))
    base = flat(fill_recipe("deit-b", WHERE))
    found = {name: value for name, value in ours.items() if value != base[name]}
    expected = {
        **SETTINGS[dataset],
        "data.batch_size": 768,
        "data.dataset": dataset,
        "init_from.": WHERE,
    }
    if source != "deit-b":
        expected["model.model"] = fill_recipe(source, WHERE).model.model
    if "384" in source:
        expected["data.image_size"] = 384
    if "distilled" in source:
        expected |= {"distill.distillation": "hard", "distill.teacher": WHERE}
    assert found == expected


@pytest.mark.parametrize(
    ("dataset", "peak"), [("cifar10", 0.01), ("cifar100", 7.5e-6), ("inat18", 7.5e-5)]
)
def test_rates_after_scaling(dataset: str, peak: float) -> None:
    """At the batch of 768 they are the authors'."""
    config = fill_recipe(f"deit-b-{dataset}", WHERE)
    assert config.optim.lr(config.data.batch_size) == pytest.approx(peak)


def test_cifar_10_alone() -> None:
    """7,200 epochs of Table 9 at 224 pixels, as many images as 300 epochs of ImageNet."""
    base = flat(fill_recipe("deit-b", WHERE))
    for name, top1 in (("deit-b", 97.5), ("deit-b-distilled", 98.5), ("regnety-16gf", 98.0)):
        recipe = f"{name}-cifar10-scratch"
        ours, other = flat(fill_recipe(recipe, WHERE)), flat(fill_recipe(name, WHERE))
        found = {key: value for key, value in ours.items() if value != other[key]}
        assert found == {"data.dataset": "cifar10", "optim.epochs": 7200}
        assert ENTRIES[recipe].top1_pct == top1
    ratio = 7200 * 50_000 / (base["optim.epochs"] * 1_281_167)
    assert 0.9 < ratio < 1
    small = dataclasses.replace(fill_recipe("deit-b-cifar10-scratch", WHERE).data, image_size=32)
    assert (fill_recipe("deit-b-cifar10-scratch", WHERE).data.crop, small.crop) == (
        "resized",
        "padded",
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [("deit-b-cars", "--init-from"), ("deit-b-distilled-cifar10-scratch", "--teacher")],
)
def test_what_is_needed_is_asked_for(name: str, option: str) -> None:
    """No transfer without weights, no distillation without a teacher."""
    with pytest.raises(UserError, match=f"is needed for .* {option}"):
        RECIPES[name](WHERE, WHERE, WHERE)


def dry_run(capsys: pytest.CaptureFixture[str], recipe: str, *options: str) -> tuple[Any, str]:
    """What a dry run prints on stdout, as JSON, and on stderr."""
    line = ["train", recipe, "--val", "v.beton", "--out", "none", "--dry-run", *options]
    assert main(line) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize(("dataset", "split"), [("flowers102", "trainval"), ("inat18", "train")])
def test_dry_run_says_where_the_data_comes_from(
    dataset: str, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without data: Table 6's numbers, and the lines that make both sets."""
    path = tmp_path / "t.beton"
    options = ("--train", str(path), "--init-from", "c.pt")
    content, err = dry_run(capsys, f"deit-b-{dataset}", *options)
    images, _, classes = TABLE_6[dataset]
    derived = content["derived"]
    assert (derived["num_train_images"], derived["num_classes"]) == (images, classes)
    assert f"the size of {dataset_row(dataset).name}, for" in derived["num_train_images_from"]  # type: ignore[arg-type]
    assert f"`fastdeit convert SOURCE {path} --split {split}`" in err
    assert "`fastdeit convert SOURCE v.beton --split " in err


def test_dry_run_of_data_that_exists(
    containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said of where data comes from that is there."""
    options = ("--train", str(containers["beton"]), "--init-from", "c.pt", "--batch-size", "64")
    content, err = dry_run(capsys, "deit-b-cifar10", *options)
    assert content["derived"]["num_classes"] == 20
    assert "fastdeit convert" not in err


@pytest.mark.slow
def test_transfer_from_end_to_end(containers: dict[str, Path], tmp_path: Path) -> None:
    """A small model of other classes becomes one of these: its head is new, its names are kept."""
    first, out = tmp_path / "first", tmp_path / "out"
    small = "--patch-size 16 --embed-dim 24 --depth 2 --num-heads 3 --epochs 1 --warmup-epochs 0"
    more = f"{small} --batch-size 64 --image-size 48 --engine pil --threads 1 --device cpu".split()
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    assert main(["train", "deit-b", *data, "--out", str(first), *more]) == 0
    begun = load_checkpoint(first / "checkpoint.pt")
    other = {**begun, **Classes(tuple(f"other {n}" for n in range(20))).to_dict()}
    save_checkpoint(tmp_path / "other.pt", other)
    line = ["train", "deit-b-inat19", *data, "--out", str(out), "--init-from"]
    # Another seed, or the new head would begin as the old one did.
    assert main([*line, str(tmp_path / "other.pt"), *more, "--seed", "1"]) == 0
    ended = load_checkpoint(out / "checkpoint.pt")
    assert ended["class_names"] == begun["class_names"]
    assert ended["config"]["optim"]["base_lr"] == 5e-5
    distance = {
        key: (ended["model"][key] - begun["model"][key]).abs().max().item()
        for key in ("head.weight", "blocks.0.attn.qkv.weight")
    }
    # A few steps at 5e-6 move weights by little; a new head is another one.
    assert distance["blocks.0.attn.qkv.weight"] < 1e-3 < distance["head.weight"]
