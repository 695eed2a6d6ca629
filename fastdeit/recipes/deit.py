"""The paper's models at 224 pixels, plain and distilled, 300 and 1,000 epochs; ViT-B's column."""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import TrainConfig
from fastdeit.recipes.entry import Entry, changed, table_9

SMALLER_TIME = "less than 3 days on 4 GPUs (V100)"
BASE_TIME = "53 hours on 8 GPUs, 37 hours on 16 (V100)"


def deit_ti(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-Ti, 300 epochs (Tables 5 and 9): 72.2% top-1 in the paper.

    The paper: less than 3 days on 4 GPUs (V100). Not yet measured by us.
    """
    return table_9("deit_tiny_patch16_224", train, val, out, teacher, init_from)


def deit_s(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-S, 300 epochs (Tables 5 and 9): 79.8% top-1 in the paper.

    The paper: less than 3 days on 4 GPUs (V100). Not yet measured by us.
    """
    return table_9("deit_small_patch16_224", train, val, out, teacher, init_from)


def deit_b(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B, 300 epochs (Tables 5 and 9): 81.8% top-1 in the paper.

    The paper: 53 hours on one node of 8 GPUs (V100). Not yet measured by us.
    """
    return table_9("deit_base_patch16_224", train, val, out, teacher, init_from)


def deit_ti_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-Ti, 1,000 epochs of Table 9 without distillation: no top-1 in the paper.

    Only the distilled
    models have 1,000-epoch accuracies there (Table 5). It gives no time. Not yet measured by us.
    """
    config = deit_ti(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def deit_s_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-S, 1,000 epochs of Table 9 without distillation: no top-1 in the paper.

    Only the distilled
    models have 1,000-epoch accuracies there (Table 5). It gives no time. Not yet measured by us.
    """
    config = deit_s(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def deit_b_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B, 1,000 epochs of Table 9 without distillation: no top-1 in the paper.

    Figure 3 says that it saturates after 400 epochs without distillation. The paper gives no time.
    Not yet measured by us.
    """
    config = deit_b(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def deit_ti_distilled(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-Ti distilled, 300 epochs (Tables 3 and 5): 74.5% top-1 in the paper, both heads joined.

    Hard distillation through the token; the paper's teacher is a RegNetY-16GF of 82.9%, which
    `regnety-16gf` trains. It gives no time. Not yet measured by us.
    """
    return table_9("deit_tiny_distilled_patch16_224", train, val, out, teacher, init_from, "hard")


def deit_s_distilled(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-S distilled, 300 epochs (Tables 3 and 5): 81.2% top-1 in the paper, both heads joined.

    Hard distillation through the token; the paper's teacher is a RegNetY-16GF of 82.9%, which
    `regnety-16gf` trains. It gives no time. Not yet measured by us.
    """
    return table_9("deit_small_distilled_patch16_224", train, val, out, teacher, init_from, "hard")


def deit_b_distilled(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B distilled, 300 epochs (Tables 3 and 5): 83.4% top-1 in the paper, both heads joined.

    Hard distillation through the token; the paper's teacher is a RegNetY-16GF of 82.9%, which
    `regnety-16gf` trains. It gives no time. Not yet measured by us.
    """
    return table_9("deit_base_distilled_patch16_224", train, val, out, teacher, init_from, "hard")


def deit_ti_distilled_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-Ti distilled, 1,000 epochs (Table 5): 76.6% top-1 in the paper, both heads joined.

    As `deit-ti-distilled` for longer. The paper gives no time. Not yet measured by us.
    """
    config = deit_ti_distilled(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def deit_s_distilled_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-S distilled, 1,000 epochs (Table 5): 82.6% top-1 in the paper, both heads joined.

    As `deit-s-distilled` for longer. The paper gives no time. Not yet measured by us.
    """
    config = deit_s_distilled(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def deit_b_distilled_1000(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B distilled, 1,000 epochs (Table 5): 84.2% top-1 in the paper, both heads joined.

    As `deit-b-distilled` for longer. The paper gives no time. Not yet measured by us.
    """
    config = deit_b_distilled(train, val, out, teacher, init_from)
    return changed(config, optim={"epochs": 1000})


def vit_b(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """ViT-B as the paper lists it beside DeiT-B (Table 9): no top-1 at 224 pixels in the paper.

    Table 5 has 77.9%, fine-tuned at 384 pixels. Table 9 names no norm for its gradient clipping (1
    here) and no augmentation (crop and flip here); the weights begin as DeiT's. The paper gives no
    time. Not yet measured by us.
    """
    config = table_9("vit_base_patch16_224", train, val, out, teacher, init_from)
    return changed(
        config,
        data={"batch_size": 4096, "repeats": 1},
        model={"drop_path": 0.0, "dropout": 0.1},
        augment={
            "auto_augment": "none",
            "erase_prob": 0.0,
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "smoothing": 0.0,
        },
        optim={
            "base_lr": 3e-3,
            "scale_lr": False,
            "weight_decay": 0.3,
            "warmup_epochs": 3.4,
            "clip_grad": 1.0,
            "ema_decay": 0.0,
        },
    )


PLAIN, DISTILLED = "DeiT at 224 pixels", "DeiT distilled at 224 pixels"

ENTRIES = {
    "deit-ti": Entry(deit_ti, PLAIN, "deit_tiny_patch16_224", "Table 5", 72.2, SMALLER_TIME),
    "deit-s": Entry(deit_s, PLAIN, "deit_small_patch16_224", "Table 5", 79.8, SMALLER_TIME),
    "deit-b": Entry(deit_b, PLAIN, "deit_base_patch16_224", "Table 5", 81.8, BASE_TIME),
    "deit-ti-1000": Entry(deit_ti_1000, PLAIN, "deit_tiny_patch16_224"),
    "deit-s-1000": Entry(deit_s_1000, PLAIN, "deit_small_patch16_224"),
    "deit-b-1000": Entry(deit_b_1000, PLAIN, "deit_base_patch16_224"),
    "vit-b": Entry(vit_b, PLAIN, "vit_base_patch16_224", "Table 9"),
    "deit-ti-distilled": Entry(
        deit_ti_distilled,
        DISTILLED,
        "deit_tiny_distilled_patch16_224",
        "Table 5",
        74.5,
        needs_teacher=True,
    ),
    "deit-s-distilled": Entry(
        deit_s_distilled,
        DISTILLED,
        "deit_small_distilled_patch16_224",
        "Table 5",
        81.2,
        needs_teacher=True,
    ),
    "deit-b-distilled": Entry(
        deit_b_distilled,
        DISTILLED,
        "deit_base_distilled_patch16_224",
        "Table 5",
        83.4,
        needs_teacher=True,
    ),
    "deit-ti-distilled-1000": Entry(
        deit_ti_distilled_1000,
        DISTILLED,
        "deit_tiny_distilled_patch16_224",
        "Table 5",
        76.6,
        needs_teacher=True,
    ),
    "deit-s-distilled-1000": Entry(
        deit_s_distilled_1000,
        DISTILLED,
        "deit_small_distilled_patch16_224",
        "Table 5",
        82.6,
        needs_teacher=True,
    ),
    "deit-b-distilled-1000": Entry(
        deit_b_distilled_1000,
        DISTILLED,
        "deit_base_distilled_patch16_224",
        "Table 5",
        84.2,
        needs_teacher=True,
    ),
}
