"""The demo: a small convnet and the small DeiT that it teaches. Not from the paper."""

from __future__ import annotations

from fastdeit.recipes.entry import Recipe

GROUP = "Demo"

DEMO_TEACHER = Recipe(
    group=GROUP,
    model="test_resnet",
    about="A small convnet at 64 pixels, to teach `demo`. Not from the paper.",
    change={
        "data": {"image_size": 64, "batch_size": 64, "repeats": 2},
        "model": {"drop_path": 0.0},
        "augment": {
            "auto_augment": "none",
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "erase_prob": 0.0,
        },
        "optim": {"epochs": 12, "base_lr": 3e-2, "warmup_epochs": 1, "ema_decay": 0.0},
    },
)

ENTRIES = {
    "demo-teacher": DEMO_TEACHER,
    "demo": Recipe(
        group=GROUP,
        model="deit_tiny_distilled_patch16_224",
        about="A small distilled DeiT at 64 pixels with the paper's ingredients, to see it work on "
        "a CPU. Not a row of the paper: 4 blocks of width 128 on 8-pixel patches, 3 repeats, "
        "Mixup, CutMix, erasing and hard distillation through the token as in Table 9, for the "
        "sample data's 20 classes.",
        change={
            "data": {"image_size": 64, "batch_size": 96, "repeats": 3},
            "model": {
                "drop_path": 0.0,
                "patch_size": 8,
                "embed_dim": 128,
                "depth": 4,
                "num_heads": 4,
            },
            "optim": {"epochs": 20, "base_lr": 5e-3, "warmup_epochs": 2, "ema_decay": 0.99},
        },
        needs_teacher=True,
    ),
}
