"""The paper's teachers: RegNetY trained as DeiT is.

Section 5.2: "trained with the same data and same data-augmentation as DeiT"; the note to Table 5:
"optimized with a similar optimization procedure". What differs, the paper does not say: no
learning rate, weight decay or stochastic depth of their own. So these are Table 9 unchanged.
"""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import TrainConfig
from fastdeit.recipes.entry import Entry, changed, check_init, table_9


def regnety_4gf(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """RegNetY-4GF, a teacher (Tables 2 and 5): 80.0% top-1 in the paper.

    Data and augmentation of DeiT, and "a similar optimization procedure", of which the paper gives
    no numbers: here all of Table 9. It gives no time. Not yet measured by us.
    """
    return table_9("regnety_040", train, val, out, teacher, init_from)


def regnety_8gf(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """RegNetY-8GF, a teacher (Tables 2 and 5): 81.7% top-1 in the paper.

    Data and augmentation of DeiT, and "a similar optimization procedure", of which the paper gives
    no numbers: here all of Table 9. It gives no time. Not yet measured by us.
    """
    return table_9("regnety_080", train, val, out, teacher, init_from)


def regnety_12gf(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """RegNetY-12GF, a teacher (Table 2): 82.4% top-1 in the paper.

    Data and augmentation of DeiT, and "a similar optimization procedure", of which the paper gives
    no numbers: here all of Table 9. It gives no time. Not yet measured by us.
    """
    return table_9("regnety_120", train, val, out, teacher, init_from)


def regnety_16gf(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """RegNetY-16GF, the default teacher (Tables 2 and 5): 82.9% top-1 in the paper.

    Data and augmentation of DeiT, and "a similar optimization procedure", of which the paper gives
    no numbers: here all of Table 9. The paper: 20% slower than DeiT-B's 53 hours on 8
    GPUs (V100). Not yet measured by us.
    """
    return table_9("regnety_160", train, val, out, teacher, init_from)


def regnety_16gf_fixres_384(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """RegNetY-16GF at 384 pixels, the teacher of `deit-b-distilled-384`: no top-1 in the paper.

    Begins with a checkpoint of `regnety-16gf` and trains its classifier and last batch norm alone
    (FixRes, arXiv:1906.06423; the paper, section 4, takes that method for the teacher). Its
    published code's settings for a ResNet-50 at 384 pixels: the centre crop of evaluation, batch
    512, SGD at 0.008 (1e-3 x 8), decay 1e-4, 56 epochs. It divides the rate by 10 after 30; here it
    follows a cosine to 0. A flip is its only augmentation. It gives no time. Not yet measured by
    us.
    """
    check_init(init_from)
    config = table_9("regnety_160", train, val, out, teacher, init_from)
    return changed(
        config,
        data={"image_size": 384, "batch_size": 512, "repeats": 1, "train_crop": "center"},
        model={"drop_path": 0.0},
        augment={
            "auto_augment": "none",
            "erase_prob": 0.0,
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
            "smoothing": 0.0,
        },
        optim={
            "trainable": "classifier",
            "epochs": 56,
            "optimizer": "sgd",
            "base_lr": 8e-3,
            "min_lr": 0.0,
            "warmup_epochs": 0,
            "weight_decay": 1e-4,
            "ema_decay": 0.0,
        },
    )


GROUP = "Teachers"

ENTRIES = {
    "regnety-4gf": Entry(regnety_4gf, GROUP, "regnety_040", "Table 5", 80.0),
    "regnety-8gf": Entry(regnety_8gf, GROUP, "regnety_080", "Table 5", 81.7),
    "regnety-12gf": Entry(regnety_12gf, GROUP, "regnety_120", "Table 2", 82.4),
    "regnety-16gf": Entry(
        regnety_16gf, GROUP, "regnety_160", "Table 5", 82.9, "1.2 x 53 hours on 8 GPUs (V100)"
    ),
    "regnety-16gf-fixres-384": Entry(
        regnety_16gf_fixres_384, GROUP, "regnety_160", needs_init=True
    ),
}
