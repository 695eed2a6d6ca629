"""DeiT-III (arXiv:2204.07118): the same models by a later recipe of the same authors.

The numbers are those of the commands in its README, which trains in one node of 8 GPUs.
"""

from __future__ import annotations

from fastdeit.recipes.entry import Recipe

SMALL = Recipe(
    group="DeiT-III",
    model="deit3_small_patch16_224",
    about="DeiT-III-S, 800 epochs at 224 pixels: {top1} in the paper's README. LAMB, binary "
    "cross-entropy, 3-Augment (arXiv:2204.07118). On 8 GPUs; it gives no time. Not yet measured by "
    "us.",
    change={
        "data": {"image_size": 224, "batch_size": 2048, "eval_crop_ratio": 1.0},
        "model": {"drop_path": 0.05, "drop_path_decay": "constant"},
        "augment": {
            "auto_augment": "3a",
            "color_jitter": (0.3,),
            "erase_prob": 0.0,
            "smoothing": 0.0,
        },
        "optim": {
            "epochs": 800,
            "optimizer": "lamb",
            "base_lr": 4e-3,
            "scale_lr": False,
            "loss": "bce",
        },
    },
    table="DeiT-III README",
    top1_pct=81.4,
    paper_time="8 GPUs, no time given",
)

ENTRIES = {
    "deit3-s": SMALL,
    "deit3-b": SMALL.but(
        model="deit3_base_patch16_224",
        about="DeiT-III-B, 800 epochs at 192 pixels, to be fine-tuned: {top1} in the paper's "
        "README. LAMB, binary cross-entropy, 3-Augment (arXiv:2204.07118). `deit3-b-224` goes on "
        "with it. On 8 GPUs; it gives no time. Not yet measured by us.",
        change={
            "data": {"image_size": 192},
            "model": {"drop_path": 0.2},
            "optim": {"base_lr": 3e-3},
        },
        top1_pct=None,
    ),
    "deit3-b-224": Recipe(
        group=SMALL.group,
        model="deit3_base_patch16_224",
        about="DeiT-III-B fine-tuned at 224 pixels for 20 epochs: {top1} in the paper's README. "
        "Begins with a checkpoint of `deit3-b`; AdamW, cross-entropy and RandAugment again, no "
        "repeats (arXiv:2204.07118). On 8 GPUs; it gives no time. Not yet measured by us.",
        change={
            "data": {"batch_size": 512, "repeats": 1, "eval_crop_ratio": 1.0},
            "model": {"drop_path": 0.2, "drop_path_decay": "constant"},
            "augment": {"erase_prob": 0.0},
            "optim": {"epochs": 20, "base_lr": 1e-5, "scale_lr": False, "weight_decay": 0.1},
        },
        table=SMALL.table,
        top1_pct=83.8,
        paper_time=SMALL.paper_time,
        needs_init=True,
    ),
}
