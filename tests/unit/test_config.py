"""The configuration refuses what cannot work, in the house's words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fastdeit import UserError
from fastdeit.config import (
    DataConfig,
    DistillConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from fastdeit.config.augment import AugmentConfig
from fastdeit.recipes import RECIPES, fill_recipe

SOMEWHERE = Path("somewhere")
NO_MIX = {"mixup_alpha": 0, "cutmix_alpha": 0}


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (DataConfig, {"batch_size": 0}, r"batch_size must be at least 1. Found: 0. Pass --batch"),
        (DataConfig, {"image_size": 8}, r"image_size must be at least 16. Found: 8"),
        (DataConfig, {"repeats": 0}, r"repeats must be from 1 to 255. Found: 0"),
        (DataConfig, {"eval_crop_ratio": 0}, r"eval_crop_ratio must be above 0 and at most 1"),
        (DataConfig, {"threads": -1}, r"threads must be 0 or more. Found: -1"),
        (AugmentConfig, {"erase_prob": 1.5}, r"erase_prob must be from 0 to 1. Found: 1.5"),
        (
            AugmentConfig,
            {"mixup_alpha": -1},
            r"mixup_alpha must be 0 or more. Found: -1",
        ),
        (AugmentConfig, {"smoothing": 1}, r"smoothing must be at least 0 and below 1. Found: 1"),
        (AugmentConfig, {"hflip_prob": -0.1}, r"hflip_prob must be from 0 to 1"),
        (AugmentConfig, {"switch_prob": 1.1}, r"switch_prob must be from 0 to 1"),
        (AugmentConfig, {"cutmix_alpha": -1}, r"cutmix_alpha must be 0 or more"),
        (AugmentConfig, {"cutmix_minmax": (0.5, 0.5)}, r"cutmix_minmax must be two numbers"),
        (AugmentConfig, {"mix_prob": 2}, r"mix_prob must be from 0 to 1. Found: 2"),
        (AugmentConfig, {"auto_augment": "x"}, r"auto_augment must be a policy .* Found: 'x'"),
        (AugmentConfig, {"cutmix_alpha": float("inf")}, r"cutmix_alpha must be 0 or more"),
        (
            AugmentConfig,
            {"mixup_alpha": float("nan")},
            r"mixup_alpha must be 0 or more",
        ),
        (AugmentConfig, {"mix_mode": "all"}, r"mix_mode must be one of batch, .* Found: 'all'"),
        (DataConfig, {"engine": "x"}, r"engine must be one of auto, ffcv, .* Found: 'x'"),
        (RunConfig, {"resume": "yes"}, r"resume must be one of never, auto. Found: 'yes'"),
        (RunConfig, {"timeout_minutes": float("inf")}, r"timeout_minutes must be above 0"),
        (AugmentConfig, {"erase_mode": "x"}, r"erase_mode must be one of pixel, rand, const"),
        (AugmentConfig, {"augment_order": "x"}, r"augment_order must be one of deit, timm-pref"),
        (AugmentConfig, {"color_jitter": 0.4}, r"color_jitter .* Found: 0.4. Pass --color-jitter"),
        (AugmentConfig, {"color_jitter": (float("inf"),)}, r"numbers from 0 to 10"),
        (AugmentConfig, {"color_jitter": (1, 2)}, r"color_jitter must be 1, 3 or 4 numbers"),
        (AugmentConfig, {"color_jitter": (-1,)}, r"color_jitter .* Found: \(-1,\)"),
        (AugmentConfig, {"color_jitter": (0, 0, 0, 0.6)}, r"the fourth \(hue\) at most 0.5"),
        (AugmentConfig, {"erase_count": 0}, r"erase_count must be from 1 to 100. Found: 0"),
        (AugmentConfig, {"erase_splits": 1}, r"erase_splits must be 0 .* or at least 2. Found: 1"),
        (AugmentConfig, {"cutmix_minmax": (0.8, 0.2)}, r"cutmix_minmax must be two numbers"),
        (
            DataConfig,
            {"dali_device": "gpu", "engine": "pil"},
            r"dali_device has no effect with eng",
        ),
        (RunConfig, {"device": "foo"}, r"device must be auto, cpu, cuda or cuda:N. Found: foo"),
        (OptimConfig, {"epochs": 0}, r"epochs must be at least 1. Found: 0"),
        (OptimConfig, {"epochs": 5}, r"warmup_epochs must be at least 0 and below epochs \(5\)"),
        (OptimConfig, {"base_lr": 0}, r"base_lr must be above 0. Found: 0"),
        (
            RunConfig,
            {"resume": "auto", "overwrite": True},
            r"overwrite must not be given",
        ),
        (OptimConfig, {"clip_grad": -1}, r"clip_grad must be 0 or more. Found: -1"),
        (OptimConfig, {"ema_decay": 1}, r"ema_decay must be at least 0 and below 1. Found: 1"),
        (DistillConfig, {"distillation": "hard"}, r"teacher is needed for --distillation hard"),
        (DistillConfig, {"teacher": SOMEWHERE}, r"teacher has no effect without distillation"),
        (ModelConfig, {"drop_path": 1}, r"drop_path must be at least 0 and below 1. Found: 1"),
        (
            AugmentConfig,
            {"auto_augment": "3a", "augment_interpolation": "random"},
            r"augment_interpolation has no effect without a policy that rotates, .* Found: random",
        ),
        (
            AugmentConfig,
            {"erase_prob": 0, "erase_mode": "rand"},
            r"erase_mode has no effect without Random Erasing. Found: rand. Pass --erase-prob 0.25",
        ),
        (AugmentConfig, {"erase_prob": 0, "erase_count": 2}, r"erase_count has no effect without"),
        (AugmentConfig, {"erase_prob": 0, "erase_splits": 2}, r"erase_splits has no effect"),
        (AugmentConfig, {**NO_MIX, "mix_prob": 0.5}, r"mix_prob has no effect without Mixup and"),
        (AugmentConfig, {**NO_MIX, "mix_mode": "pair"}, r"mix_mode has no effect without Mixup"),
        (
            AugmentConfig,
            {**NO_MIX, "augment_order": "timm-prefetcher"},
            r"augment_order has no effect without Mixup and CutMix. Found: timm-prefetcher",
        ),
        (
            AugmentConfig,
            {"mixup_alpha": 0, "switch_prob": 0.1},
            r"switch_prob has no effect without both Mixup and CutMix. Found: 0.1. Pass --mixup-a",
        ),
        (
            AugmentConfig,
            {"cutmix_alpha": 2, "cutmix_minmax": (0.2, 0.8)},
            r"cutmix_alpha has no effect beside cutmix_minmax. Found: 2. Leave one of them out.",
        ),
        (
            DataConfig,
            {"image_size": 32, "crop_scale": (0.5, 1)},
            r"crop_scale has no effect without resized crops. Found: .*Pass --train-crop resized",
        ),
        (DataConfig, {"train_crop": "padded", "crop_ratio": (1, 1)}, r"crop_ratio has no effect"),
        (
            DataConfig,
            {"hw_decoder_load": 0.5},
            r"hw_decoder_load has no effect without decoding on the GPU. Found: 0.5",
        ),
        (
            DataConfig,
            {"image_size": 32, "eval_crop_ratio": 0.9},
            r"eval_crop_ratio has no effect up to 32 pixels, .* Found: 0.9. Leave",
        ),
        (OptimConfig, {"momentum": 0.8}, r"momentum has no effect without sgd. Found: 0.8. Pass"),
        (
            OptimConfig,
            {"warmup_epochs": 0, "warmup_lr": 1e-5},
            r"warmup_lr has no effect without a warm-up. Found: 1e-05",
        ),
        (
            ModelConfig,
            {"drop_path_mode": "subset"},
            r"drop_path_mode has no effect without stochastic depth. Found: subset",
        ),
        (ModelConfig, {"drop_path_decay": "constant"}, r"drop_path_decay has no effect without"),
        (ModelConfig, {"depth": 0}, r"depth must be above 0. Found: 0"),
    ],
)
def test_bad_values_are_named(kind: Any, values: dict[str, Any], text: str) -> None:
    """Each bad value raises one UserError with what, rule, value and way out."""
    needed = {
        DataConfig: {"train": SOMEWHERE, "val": SOMEWHERE},
        ModelConfig: {"model": "resnet18"},
        RunConfig: {"out": SOMEWHERE},
    }
    with pytest.raises(UserError, match=text):
        kind(**needed.get(kind, {}), **values)


def test_what_acts_is_not_refused() -> None:
    """The same options where they do what they say."""
    AugmentConfig(augment_interpolation="random", erase_mode="rand", erase_count=2, erase_splits=2)
    AugmentConfig(mixup_alpha=0, mix_prob=0.5, mix_mode="pair", augment_order="timm-prefetcher")
    AugmentConfig(cutmix_alpha=0, cutmix_minmax=(0.2, 0.8), switch_prob=0.1)
    places = {"train": SOMEWHERE, "val": SOMEWHERE}
    DataConfig(**places, image_size=32, train_crop="resized", crop_scale=(0.5, 1))
    DataConfig(**places, image_size=32, eval_crop_ratio=1)
    DataConfig(**places, image_size=64, eval_crop_ratio=0.9, crop_ratio=(1, 1))
    DataConfig(**places, dali_device="gpu", hw_decoder_load=0.5)
    OptimConfig(optimizer="sgd", momentum=0.8, warmup_lr=1e-5)


def make(recipe: str) -> TrainConfig:
    """A recipe with places filled in."""
    return fill_recipe(recipe, SOMEWHERE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_survive_json(recipe: str) -> None:
    """Every recipe's configuration is plain JSON."""
    content = make(recipe).to_dict()
    assert json.loads(json.dumps(content)) == content


def test_distilled_model_needs_distillation() -> None:
    """A distillation token without a teacher is refused; the other way round is not."""
    good = make("demo")
    with pytest.raises(UserError, match="distillation must be on for the distilled model"):
        TrainConfig(data=good.data, model=good.model, run=good.run)
    for kind in ("hard", "soft"):  # the paper's usual distillation, Table 3
        TrainConfig(
            data=good.data,
            model=ModelConfig(model="resnet18"),
            run=good.run,
            distill=DistillConfig(distillation=kind, teacher=SOMEWHERE),
        )


def test_a_teacher_that_was_asked_before_has_its_size() -> None:
    """Its labels are there."""
    with pytest.raises(UserError, match="has no effect with --teacher-labels"):
        DistillConfig(distillation="hard", teacher_labels=SOMEWHERE, teacher_image_size=64)


def test_parts_of_a_step_are_at_most_its_images() -> None:
    """More parts than images could not act."""
    good = make("demo-teacher")
    with pytest.raises(UserError, match=r"accumulate must be at most the images of a step \(64\)"):
        dataclasses.replace(good, optim=dataclasses.replace(good.optim, accumulate=65))


def test_learning_rate_is_linear_in_the_batch() -> None:
    """The paper's 5e-4 at 512 becomes 1e-3 at 1,024 (Table 9)."""
    assert OptimConfig().lr(1024) == pytest.approx(1e-3)
