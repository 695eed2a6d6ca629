"""Fine-tuning at another resolution, as the published code's README does it.

The paper takes over the procedure of arXiv:2003.08237 and gives no numbers of it but 25 epochs; the
README gives the others, and 30 epochs. Stochastic depth is on, as in the published code since 2022;
the released weights were fine-tuned without it (--drop-path 0).
"""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import TrainConfig
from fastdeit.recipes.entry import Entry, changed, check_init, table_9

TIME = "20 hours on 8 GPUs (V100), 25 epochs"


def deit_b_384(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B fine-tuned at 384 pixels (Tables 5 and 8): 83.1% top-1 in the paper.

    Begins with a checkpoint of `deit-b`. 30 epochs as in the published README; the paper says 25,
    in 20 hours on 8 GPUs (V100). Not yet measured by us.
    """
    check_init(init_from)
    return _at_384(table_9("deit_base_patch16_384", train, val, out, teacher, init_from))


def deit_b_distilled_384(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B distilled fine-tuned at 384 pixels (Table 5): 84.5% top-1 in the paper.

    85.2% from `deit-b-distilled-1000`. Begins with a checkpoint of one of them; the paper's teacher
    has the same resolution, and its published code cannot do this. 30 epochs, where the paper says
    25, in 20 hours on 8 GPUs (V100). Not yet measured by us.
    """
    check_init(init_from)
    config = table_9("deit_base_distilled_patch16_384", train, val, out, teacher, init_from, "hard")
    return _at_384(config)


def deit_b_384_sgd(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B fine-tuned at 384 pixels by SGD (Table 8): 83.1% top-1 in the paper.

    The paper gives no learning rate for it. 5e-6 is AdamW's and hardly moves anything with SGD, so
    pass --base-lr (and --min-lr). Time as for `deit-b-384`. Not yet measured by us.
    """
    config = deit_b_384(train, val, out, teacher, init_from)
    return changed(config, optim={"optimizer": "sgd"})


def deit_b_160(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B fine-tuned at 160 pixels (Table 10): 79.9% top-1 in the paper.

    All else as `deit-b-384`. The paper gives no time for this size. Not yet measured by us.
    """
    return _at(160, train, val, out, teacher, init_from)


def deit_b_320(
    train: Path, val: Path, out: Path, teacher: Path | None = None, init_from: Path | None = None
) -> TrainConfig:
    """DeiT-B fine-tuned at 320 pixels (Table 10): 82.7% top-1 in the paper.

    All else as `deit-b-384`. The paper gives no time for this size. Not yet measured by us.
    """
    return _at(320, train, val, out, teacher, init_from)


def _at(
    image_size: int,
    train: Path,
    val: Path,
    out: Path,
    teacher: Path | None,
    init_from: Path | None,
) -> TrainConfig:
    """Table 10: the procedure of 384 pixels at another size."""
    check_init(init_from)
    config = _at_384(table_9("deit_base_patch16_224", train, val, out, teacher, init_from))
    return changed(config, data={"image_size": image_size})


def _at_384(config: TrainConfig) -> TrainConfig:
    """The published README's fine-tuning: a learning rate that stays where the warm-up ends."""
    return changed(
        config,
        data={"image_size": 384, "batch_size": 512},
        optim={"epochs": 30, "base_lr": 5e-6, "min_lr": 5e-6, "weight_decay": 1e-8},
    )


GROUP = "Fine-tuning at another resolution"

ENTRIES = {
    "deit-b-384": Entry(
        deit_b_384, GROUP, "deit_base_patch16_384", "Table 5", 83.1, TIME, needs_init=True
    ),
    "deit-b-384-sgd": Entry(
        deit_b_384_sgd, GROUP, "deit_base_patch16_384", "Table 8", 83.1, TIME, needs_init=True
    ),
    "deit-b-160": Entry(
        deit_b_160, GROUP, "deit_base_patch16_224", "Table 10", 79.9, needs_init=True
    ),
    "deit-b-320": Entry(
        deit_b_320, GROUP, "deit_base_patch16_224", "Table 10", 82.7, needs_init=True
    ),
    "deit-b-distilled-384": Entry(
        deit_b_distilled_384,
        GROUP,
        "deit_base_distilled_patch16_384",
        "Table 5",
        84.5,
        TIME,
        needs_teacher=True,
        needs_init=True,
    ),
}
