"""The demo: a small convnet and the small DeiT that it teaches. Not from the paper."""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import (
    DataConfig,
    DistillConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from fastdeit.config.augment import AugmentConfig
from fastdeit.recipes.entry import Entry


def demo_teacher(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
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
        init_from=init_from,
    )


def demo(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
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
        init_from=init_from,
    )


GROUP = "Demo"

ENTRIES = {
    "demo-teacher": Entry(demo_teacher, GROUP, "test_resnet"),
    "demo": Entry(demo, GROUP, "deit_tiny_distilled_patch16_224", needs_teacher=True),
}
