"""The recipes: the papers' tables number by number, the sizes of the models, two steps of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from augment_batches import NUM_CLASSES, make_batch
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.augment import augment
from fastdeit.config import TrainConfig
from fastdeit.machine.device import choose_compute
from fastdeit.models import make_model, num_parameters, set_distilled_training
from fastdeit.paper import resolutions
from fastdeit.recipes import ENTRIES, RECIPES, fill_recipe
from fastdeit.training.loop import train_step
from fastdeit.training.session import assemble

pytestmark = pytest.mark.slow  # as a whole

WHERE = Path("x")
PAPERS = [name for name in RECIPES if not name.startswith("demo")]


def recipe_of(name: str) -> TrainConfig:
    """A recipe with places filled in."""
    return fill_recipe(name, WHERE)


def flat(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration with dotted names."""
    return {
        f"{part}.{name}": value
        for part, values in dataclasses.asdict(config).items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }


def changes(name: str, base: str) -> dict[str, Any]:
    """In which fields a recipe differs from another, and its values there."""
    ours, theirs = flat(recipe_of(name)), flat(recipe_of(base))
    assert ours.keys() == theirs.keys()
    return {field: value for field, value in ours.items() if value != theirs[field]}


@pytest.mark.parametrize("name", ["deit-ti", "deit-s", "deit-b", "regnety-16gf"])
def test_table_9(name: str) -> None:
    """Every number of the column DeiT-B."""
    config = recipe_of(name)
    data, augment, optim = config.data, config.augment, config.optim
    assert (optim.epochs, data.batch_size, data.repeats, data.image_size) == (300, 1024, 3, 224)
    assert (optim.optimizer, optim.lr(1024)) == ("adamw", pytest.approx(0.0005 * 1024 / 512))
    assert optim.lr(4096) == pytest.approx(0.0005 * 4096 / 512)
    assert (optim.weight_decay, optim.warmup_epochs, optim.clip_grad) == (0.05, 5, 0)
    assert (augment.smoothing, config.model.drop_path, config.model.dropout) == (0.1, 0.1, 0)
    assert augment.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.mixup_alpha, augment.cutmix_alpha, augment.erase_prob) == (0.8, 1.0, 0.25)
    assert (optim.loss, optim.ema_decay) == ("ce", 0.99996)
    assert not config.model.is_distilled


def test_table_9_of_vit_b() -> None:
    """Every number of the column ViT-B."""
    config = recipe_of("vit-b")
    data, augment, optim = config.data, config.augment, config.optim
    assert (optim.epochs, data.batch_size, data.repeats, data.image_size) == (300, 4096, 1, 224)
    assert (optim.optimizer, optim.lr(4096), optim.lr(1024)) == ("adamw", 0.003, 0.003)
    assert (optim.weight_decay, optim.warmup_epochs, optim.clip_grad) == (0.3, 3.4, 1)
    assert (augment.smoothing, config.model.drop_path, config.model.dropout) == (0, 0, 0.1)
    assert (augment.auto_augment, augment.color_jitter) == ("none", ())
    assert (augment.mixup_alpha, augment.cutmix_alpha, augment.erase_prob) == (0, 0, 0)
    assert (optim.loss, optim.ema_decay, augment.hflip_prob) == ("ce", 0, 0.5)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("deit-b-sgd", {"optim.optimizer": "sgd"}),
        ("deit-b-no-randaugment", {"augment.auto_augment": "none"}),
        ("deit-b-autoaugment", {"augment.auto_augment": "original"}),
        ("deit-b-no-mixup", {"augment.mixup_alpha": 0}),
        ("deit-b-no-cutmix", {"augment.cutmix_alpha": 0}),
        ("deit-b-no-mix", {"augment.mixup_alpha": 0, "augment.cutmix_alpha": 0}),
        ("deit-b-no-erasing", {"augment.erase_prob": 0}),
        ("deit-b-no-stochastic-depth", {"model.drop_path": 0}),
        ("deit-b-no-repeats", {"data.repeats": 1}),
        ("deit-b-dropout", {"model.dropout": 0.1}),
        ("deit-b-ema", {}),
        ("deit-b-1000", {"optim.epochs": 1000}),
    ],
)
def test_table_8(name: str, fields: dict[str, Any]) -> None:
    """An ablation differs from DeiT-B in what its row says, and in nothing else."""
    assert changes(name, "deit-b") == fields


def test_every_ablation_is_tested() -> None:
    """Table 8 has thirteen rows: the default, one of fine-tuning, eleven in this group."""
    rows = {name: e.top1_pct for name, e in ENTRIES.items() if e.group == "Ablation of DeiT-B"}
    assert list(rows.values()) == [74.5, 79.6, 81.2, 78.7, 80, 75.8, 4.3, 3.4, 76.5, 81.3, 81.9]
    assert changes("deit-b-384-sgd", "deit-b-384") == {"optim.optimizer": "sgd"}


@pytest.mark.parametrize("size", ["ti", "s", "b"])
def test_distilled_twins(size: str) -> None:
    """A distilled recipe is the plain one with the token and a teacher, and its longer form."""
    timm_name = {"ti": "tiny", "s": "small", "b": "base"}[size]
    assert changes(f"deit-{size}-distilled", f"deit-{size}") == {
        "model.model": f"deit_{timm_name}_distilled_patch16_224",
        "distill.distillation": "hard",
        "distill.teacher": WHERE,
    }
    for name in (f"deit-{size}", f"deit-{size}-distilled"):
        assert changes(f"{name}-1000", name) == {"optim.epochs": 1000}


@pytest.mark.parametrize(("size", "top1"), [(160, 79.9), (320, 82.7)])
def test_other_resolutions(size: int, top1: float) -> None:
    """Table 10's sizes are fine-tuned as 384 pixels are."""
    assert changes(f"deit-b-{size}", "deit-b-384") == {
        "data.image_size": size,
        "model.model": "deit_base_patch16_224",
    }
    row = next(each for each in resolutions() if each.image_size == size)
    assert row.top1 == ENTRIES[f"deit-b-{size}"].top1_pct == top1


def test_fixres() -> None:
    """The published FixRes of a ResNet-50 at 384 pixels: its README and its optimiser."""
    found = changes("regnety-16gf-fixres-384", "regnety-16gf")
    config = recipe_of("regnety-16gf-fixres-384")
    assert found.pop("init_from.") == WHERE
    for part in ("auto_augment", "erase_prob", "mixup_alpha", "cutmix_alpha", "smoothing"):
        assert found.pop(f"augment.{part}") in (0, "none")
    assert config.optim.lr(64 * 8) == pytest.approx(8 * 1e-3 * 64 * 8 / 512)
    assert found == {
        "data.image_size": 384,
        "data.batch_size": 64 * 8,
        "data.repeats": 1,
        "data.train_crop": "center",
        "model.drop_path": 0.0,
        "optim.trainable": "classifier",
        "optim.epochs": 56,
        "optim.optimizer": "sgd",
        "optim.base_lr": 8e-3,
        "optim.min_lr": 0.0,
        "optim.warmup_epochs": 0,
        "optim.weight_decay": 1e-4,
        "optim.ema_decay": 0.0,
    }


@pytest.mark.parametrize("kind", ["deit-b", "deit-b-distilled"])
def test_fine_tuning_at_384(kind: str) -> None:
    """The published README: batch 512, 5e-6 throughout, decay 1e-8, 30 epochs."""
    found = changes(f"{kind}-384", kind)
    model = found.pop("model.model")
    assert model == recipe_of(kind).model.model.replace("224", "384")
    assert found == {
        "data.image_size": 384,
        "data.batch_size": 512,
        "optim.epochs": 30,
        "optim.base_lr": 5e-6,
        "optim.min_lr": 5e-6,
        "optim.weight_decay": 1e-8,
        "init_from.": WHERE,
    }
    assert recipe_of(f"{kind}-384").optim.lr(512) == 5e-6


def test_deit_3() -> None:
    """DeiT-III's commands, number by number."""
    small = {
        "model.model": "deit3_small_patch16_224",
        "data.batch_size": 2048,
        "data.eval_crop_ratio": 1.0,
        "model.drop_path": 0.05,
        "model.drop_path_decay": "constant",
        "augment.auto_augment": "3a",
        "augment.color_jitter": (0.3,),
        "augment.erase_prob": 0.0,
        "augment.smoothing": 0.0,
        "optim.epochs": 800,
        "optim.optimizer": "lamb",
        "optim.base_lr": 4e-3,
        "optim.scale_lr": False,
        "optim.loss": "bce",
    }
    assert changes("deit3-s", "deit-s") == small
    assert changes("deit3-b", "deit3-s") == {
        "model.model": "deit3_base_patch16_224",
        "data.image_size": 192,
        "model.drop_path": 0.2,
        "optim.base_lr": 3e-3,
    }
    assert changes("deit3-b-224", "deit-b") == {
        "model.model": "deit3_base_patch16_224",
        "data.batch_size": 512,
        "data.repeats": 1,
        "data.eval_crop_ratio": 1.0,
        "model.drop_path": 0.2,
        "model.drop_path_decay": "constant",
        "augment.erase_prob": 0.0,
        "optim.epochs": 20,
        "optim.base_lr": 1e-5,
        "optim.scale_lr": False,
        "optim.weight_decay": 0.1,
        "init_from.": WHERE,
    }


@pytest.mark.parametrize("name", PAPERS)
def test_what_is_said_of_a_recipe(name: str) -> None:
    """The record, the help and the configuration say the same, and claim no result of ours."""
    entry, config = ENTRIES[name], recipe_of(name)
    text = entry.help
    assert config.model.model == entry.model
    assert entry.needs_teacher == (config.distill.distillation != "none")
    assert entry.needs_init == (config.init_from is not None)
    assert text.endswith("Not yet measured by us.")
    if entry.top1_pct is None:
        assert "no top-1" in text
    else:
        assert f"{entry.top1_pct}% top-1 in the paper" in text
        assert entry.table is not None
    if entry.paper_time is None:
        assert "no time" in text
    if entry.table is not None and entry.table.startswith("Table"):
        assert f"{entry.table.split()[1]}" in text.split(":")[0]


@pytest.mark.parametrize(
    ("name", "option"), [("deit-b-384", "--init-from"), ("deit-b-distilled", "--teacher")]
)
def test_what_a_recipe_needs_is_asked_for(name: str, option: str) -> None:
    """Fine-tuning without weights and distillation without a teacher are refused."""
    with pytest.raises(UserError, match=f"is needed for .* {option}"):
        RECIPES[name](WHERE, WHERE, WHERE)


# Millions, from the model cards of the papers' models (OpenMMLab, timm, DeiT-III's README).
MILLIONS = {
    "deit_tiny_patch16_224": 5.72,
    "deit_small_patch16_224": 22.05,
    "deit_base_patch16_224": 86.57,
    "vit_base_patch16_224": 86.57,
    "deit_base_patch16_384": 86.86,
    "deit_tiny_distilled_patch16_224": 5.91,
    "deit_small_distilled_patch16_224": 22.44,
    "deit_base_distilled_patch16_224": 87.34,
    "deit_base_distilled_patch16_384": 87.63,
    "regnety_040": 20.65,
    "regnety_080": 39.18,
    "regnety_120": 51.82,
    "regnety_160": 83.59,
    "deit3_small_patch16_224": 22.06,
    "deit3_base_patch16_224": 86.59,
}


@pytest.mark.parametrize("name", PAPERS)
def test_parameters(name: str) -> None:
    """The models have the papers' sizes."""
    config = recipe_of(name)
    with torch.device("meta"):
        model = make_model(config.model, 1000, config.data.image_size)
    millions = num_parameters(model) / 1e6
    # Other resolutions than the card's have fewer positions, or more.
    more = 0.0
    if "patch16" in config.model.model:
        sides = config.data.image_size // 16, int(config.model.model.rsplit("_", 1)[1]) // 16
        more = (sides[0] ** 2 - sides[1] ** 2) * 768 / 1e6
    assert millions == pytest.approx(MILLIONS[config.model.model] + more, abs=0.006)


def take_step(
    config: TrainConfig, model: nn.Module, teacher: nn.Module | None, step: int
) -> Tensor:
    """One step of training on noise; the only place here that knows how a step is called."""
    session = assemble(config, model, teacher, choose_compute("cpu", "fp32"))
    batch = dataclasses.replace(make_batch(4, config.data.image_size, step), step=step)
    return train_step(config, session, augment(batch, config.augment, 0), 1e-3)


def shrunk(config: TrainConfig) -> TrainConfig:
    """The same recipe for small images, with two narrow blocks or the smallest RegNetY."""
    name = config.model.model
    if name.startswith("regnety"):
        smaller: dict[str, Any] = {"model": "regnety_002"}
    else:
        is_convnet = name == "test_resnet"
        smaller = {} if is_convnet else {"depth": 2, "embed_dim": 24, "num_heads": 3}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=32),
        model=dataclasses.replace(config.model, **smaller),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str) -> None:
    """The recipe builds and takes two steps, whose loss is a number and whose weights move."""
    config = shrunk(recipe_of(name))
    side = config.data.image_size
    model = make_model(config.model, NUM_CLASSES, side, 0).train()
    set_distilled_training(model)
    teacher = None
    if config.distill.teacher is not None:
        teacher_model = recipe_of("demo-teacher").model
        teacher = make_model(teacher_model, NUM_CLASSES, side, 1).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for step in range(2):
        assert torch.isfinite(take_step(config, model, teacher, step))
    moved = {key for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    heads = {f"{key}.weight" for key in ("head", "head_dist", "head.fc", "fc")} & before.keys()
    assert heads
    assert heads <= moved
    assert all(torch.isfinite(value).all() for value in model.parameters())
