"""DeiT-III (arXiv:2204.07118): the same models by a later recipe of the same authors.

The numbers are those of the commands in its README, which trains in one node of 8 GPUs.
"""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import TrainConfig
from fastdeit.recipes.entry import Entry, changed, check_init, table_9


def deit3_s(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-III-S, 800 epochs at 224 pixels: 81.4% top-1 in the paper's README.

    LAMB, binary cross-entropy, 3-Augment (arXiv:2204.07118). On 8 GPUs; it gives no time. Not yet
    measured by us.
    """
    config = table_9("deit3_small_patch16_224", train, val, out, teacher, init_from)
    return _pretrain(config, lr=4e-3, drop_path=0.05, image_size=224)


def deit3_b(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-III-B, 800 epochs at 192 pixels, to be fine-tuned: no top-1 in the paper's README.

    LAMB, binary cross-entropy, 3-Augment (arXiv:2204.07118). `deit3-b-224` goes on with it. On 8
    GPUs; it gives no time. Not yet measured by us.
    """
    config = table_9("deit3_base_patch16_224", train, val, out, teacher, init_from)
    return _pretrain(config, lr=3e-3, drop_path=0.2, image_size=192)


def deit3_b_224(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-III-B fine-tuned at 224 pixels for 20 epochs: 83.8% top-1 in the paper's README.

    Begins with a checkpoint of `deit3-b`; AdamW, cross-entropy and RandAugment again, no repeats
    (arXiv:2204.07118). On 8 GPUs; it gives no time. Not yet measured by us.
    """
    check_init(init_from)
    config = table_9("deit3_base_patch16_224", train, val, out, teacher, init_from)
    return changed(
        config,
        data={"batch_size": 512, "repeats": 1, "eval_crop_ratio": 1.0},
        model={"drop_path": 0.2, "drop_path_decay": "constant"},
        augment={"erase_prob": 0.0},
        optim={"epochs": 20, "base_lr": 1e-5, "scale_lr": False, "weight_decay": 0.1},
    )


def _pretrain(config: TrainConfig, lr: float, drop_path: float, image_size: int) -> TrainConfig:
    """What the sizes have in common."""
    return changed(
        config,
        data={"image_size": image_size, "batch_size": 2048, "eval_crop_ratio": 1.0},
        model={"drop_path": drop_path, "drop_path_decay": "constant"},
        augment={
            "auto_augment": "3a",
            "color_jitter": (0.3,),
            "erase_prob": 0.0,
            "smoothing": 0.0,
        },
        optim={
            "epochs": 800,
            "optimizer": "lamb",
            "base_lr": lr,
            "scale_lr": False,
            "loss": "bce",
        },
    )


GROUP, TABLE, HARDWARE = "DeiT-III", "DeiT-III README", "8 GPUs, no time given"

ENTRIES = {
    "deit3-s": Entry(deit3_s, GROUP, "deit3_small_patch16_224", TABLE, 81.4, HARDWARE),
    "deit3-b": Entry(deit3_b, GROUP, "deit3_base_patch16_224", TABLE, None, HARDWARE),
    "deit3-b-224": Entry(
        deit3_b_224, GROUP, "deit3_base_patch16_224", TABLE, 83.8, HARDWARE, needs_init=True
    ),
}
