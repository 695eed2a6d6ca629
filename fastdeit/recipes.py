"""Recipes: functions that return what a run needs beside its data.

A recipe's docstring says the paper's table and accuracy, and whether we measured it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fastdeit.config import (
    DataConfig,
    DistillConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from fastdeit.config.augment import AugmentConfig


def demo_teacher(train: Path, val: Path, out: Path, teacher: Path | None = None) -> TrainConfig:
    """A small convnet at 64 pixels, to teach `demo`. Not from the paper."""
    return TrainConfig(
        data=DataConfig(train=train, val=val, image_size=64, batch_size=64, repeats=2),
        model=ModelConfig(model="test_resnet"),
        augment=AugmentConfig(
            auto_augment="none", mixup_alpha=0.0, cutmix_alpha=0.0, erase_prob=0.0
        ),
        optim=OptimConfig(epochs=12, base_lr=3e-2, warmup_epochs=1, ema_decay=0.0),
        distill=DistillConfig(teacher=teacher),
        run=RunConfig(out=out),
    )


def demo(train: Path, val: Path, out: Path, teacher: Path | None = None) -> TrainConfig:
    """A small distilled DeiT at 64 pixels with the paper's ingredients, to see it work on a CPU.

    Not a row of the paper: 4 blocks of width 128 on 8-pixel patches, 3 repeats, Mixup, CutMix,
    erasing and hard distillation through the token as in Table 9, for the sample data's 20 classes.
    """
    return TrainConfig(
        data=DataConfig(train=train, val=val, image_size=64, batch_size=96, repeats=3),
        model=ModelConfig(
            model="deit_tiny_distilled_patch16_224",
            patch_size=8,
            embed_dim=128,
            depth=4,
            num_heads=4,
        ),
        optim=OptimConfig(epochs=20, base_lr=5e-3, warmup_epochs=2, ema_decay=0.99),
        distill=DistillConfig(distillation="hard", teacher=teacher),
        run=RunConfig(out=out),
    )


def deit_ti(train: Path, val: Path, out: Path, teacher: Path | None = None) -> TrainConfig:
    """DeiT-Ti, 300 epochs (Tables 5 and 9): 72.2% top-1 in the paper.

    The paper: less than 3 days on 4 GPUs (V100). Not yet measured by us.
    """
    return _table_9("deit_tiny_patch16_224", train, val, out, teacher)


def deit_s(train: Path, val: Path, out: Path, teacher: Path | None = None) -> TrainConfig:
    """DeiT-S, 300 epochs (Tables 5 and 9): 79.8% top-1 in the paper.

    The paper: less than 3 days on 4 GPUs (V100). Not yet measured by us.
    """
    return _table_9("deit_small_patch16_224", train, val, out, teacher)


def deit_b(train: Path, val: Path, out: Path, teacher: Path | None = None) -> TrainConfig:
    """DeiT-B, 300 epochs (Tables 5 and 9): 81.8% top-1 in the paper.

    The paper: 53 hours on one node of 8 GPUs (V100). Not yet measured by us.
    """
    return _table_9("deit_base_patch16_224", train, val, out, teacher)


def _table_9(model: str, train: Path, val: Path, out: Path, teacher: Path | None) -> TrainConfig:
    """The column DeiT-B of Table 9, which holds for all sizes: the defaults, and drop path."""
    return TrainConfig(
        data=DataConfig(train=train, val=val),
        model=ModelConfig(model=model, drop_path=0.1),
        distill=DistillConfig(teacher=teacher),
        run=RunConfig(out=out),
    )


class Recipe(Protocol):
    """Completes a recipe with what it cannot know: the data, where to write, the teacher."""

    def __call__(
        self, train: Path, val: Path, out: Path, teacher: Path | None = None
    ) -> TrainConfig:
        """Return the configuration."""
        ...


RECIPES: dict[str, Recipe] = {
    "demo-teacher": demo_teacher,
    "demo": demo,
    "deit-ti": deit_ti,
    "deit-s": deit_s,
    "deit-b": deit_b,
}

NEED_TEACHER = frozenset({"demo"})
"""Recipes that cannot do without `teacher`."""
