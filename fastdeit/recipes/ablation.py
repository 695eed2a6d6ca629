"""The rows of Table 8: DeiT-B with one ingredient changed, at 224 pixels.

Fine-tune what they leave with `deit-b-384` for the table's other column. The row "fine-tuning by
SGD" is `deit-b-384-sgd`; the first row is `deit-b`.
"""

from __future__ import annotations

from fastdeit.paper.ablation import table8
from fastdeit.recipes.deit import B
from fastdeit.recipes.entry import Change, Recipe

DID_NOT_TRAIN = (
    "The paper says that it did not train well, possibly for want of other hyper-parameters. "
)


def row(paper: str, what: str, change: Change, more: str = "") -> Recipe:
    """A row; `what` is the change as part of a sentence about DeiT-B."""
    return B.but(
        group="Ablation of DeiT-B",
        about=f"DeiT-B{what} (Table 8): {{top1}} in the paper. {more}Time as for `deit-b`. "
        "Not yet measured by us.",
        change=change,
        table="Table 8",
        top1_pct=table8()[paper].pretrain_224,
    )


ENTRIES = {
    "deit-b-sgd": row(
        "pretrain optimizer SGD",
        " with SGD instead of AdamW",
        {"optim": {"optimizer": "sgd"}},
        "Everything else as in Table 9, the learning rate included, which the paper calls possibly "
        "suboptimal. ",
    ),
    "deit-b-no-randaugment": row(
        "no RandAugment", " without RandAugment", {"augment": {"auto_augment": "none"}}
    ),
    "deit-b-autoaugment": row(
        "AutoAugment instead of RandAugment",
        " with AutoAugment instead of RandAugment",
        {"augment": {"auto_augment": "original"}},
        "The paper does not say which of timm's; `original` is the policy of AutoAugment's paper. ",
    ),
    "deit-b-no-mixup": row("no Mixup", " without Mixup", {"augment": {"mixup_alpha": 0.0}}),
    "deit-b-no-cutmix": row("no CutMix", " without CutMix", {"augment": {"cutmix_alpha": 0.0}}),
    "deit-b-no-mix": row(
        "no Mixup, no CutMix",
        " without Mixup and CutMix",
        {"augment": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}},
    ),
    "deit-b-no-erasing": row(
        "no random erasing",
        " without random erasing",
        {"augment": {"erase_prob": 0.0}},
        DID_NOT_TRAIN,
    ),
    "deit-b-no-stochastic-depth": row(
        "no stochastic depth",
        " without stochastic depth",
        {"model": {"drop_path": 0.0}},
        DID_NOT_TRAIN,
    ),
    "deit-b-no-repeats": row(
        "no repeated augmentation", " without repeated augmentation", {"data": {"repeats": 1}}
    ),
    "deit-b-dropout": row(
        "dropout",
        " with dropout",
        {"model": {"dropout": 0.1}},
        "The paper does not say how much; 0.1 is that of ViT-B in Table 9. ",
    ),
    "deit-b-ema": row(
        "exponential moving average",
        ", read at the moving average of its weights",
        {},
        "The same run as `deit-b`, which keeps that average but is judged by its raw weights, as "
        "in the published code: read the accuracies of the average. ",
    ),
}
