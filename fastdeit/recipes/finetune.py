"""Fine-tuning at another resolution, as the published code's README does it.

The paper takes over the procedure of arXiv:2003.08237 and gives no numbers of it but 25 epochs; the
README gives the others, and 30 epochs. Stochastic depth is on, as in the published code since 2022;
the released weights were fine-tuned without it (--drop-path 0).
"""

from __future__ import annotations

from fastdeit.paper.ablation import table8
from fastdeit.paper.tables import resolutions
from fastdeit.recipes.deit import TOP1
from fastdeit.recipes.entry import Change, Recipe

AT_384: Change = {
    "data": {"image_size": 384, "batch_size": 512},
    "optim": {"epochs": 30, "base_lr": 5e-6, "min_lr": 5e-6, "weight_decay": 1e-8},
}
"""A learning rate that stays where the warm-up ends."""

B_384 = Recipe(
    group="Fine-tuning at another resolution",
    model="deit_base_patch16_384",
    about="DeiT-B fine-tuned at 384 pixels (Tables 5 and 8): {top1} in the paper. Begins with a "
    "checkpoint of `deit-b`. 30 epochs as in the published README; the paper says 25, in 20 hours "
    "on 8 GPUs (V100). Not yet measured by us.",
    change=AT_384,
    table="Table 5",
    top1_pct=TOP1["DeiT-B 384"],
    paper_time="20 hours on 8 GPUs (V100), 25 epochs",
    needs_init=True,
)


def at(image_size: int) -> Recipe:
    """Table 10: the procedure of 384 pixels at another size."""
    (top1,) = (row.top1 for row in resolutions() if row.image_size == image_size)
    return B_384.but(
        model="deit_base_patch16_224",
        about=f"DeiT-B fine-tuned at {image_size} pixels (Table 10): {{top1}} in the paper. All "
        "else as `deit-b-384`. The paper gives no time for this size. Not yet measured by us.",
        change={"data": {"image_size": image_size}},
        table="Table 10",
        top1_pct=top1,
        paper_time=None,
    )


ENTRIES = {
    "deit-b-384": B_384,
    "deit-b-384-sgd": B_384.but(
        about="DeiT-B fine-tuned at 384 pixels by SGD (Table 8): {top1} in the paper. The paper "
        "gives no learning rate for it. 5e-6 is AdamW's and hardly moves anything with SGD, so "
        "pass --base-lr (and --min-lr). Time as for `deit-b-384`. Not yet measured by us.",
        change={"optim": {"optimizer": "sgd"}},
        table="Table 8",
        top1_pct=table8()["finetune optimizer SGD"].finetune_384,
    ),
    "deit-b-160": at(160),
    "deit-b-320": at(320),
    "deit-b-distilled-384": B_384.but(
        model="deit_base_distilled_patch16_384",
        about="DeiT-B distilled fine-tuned at 384 pixels (Table 5): {top1} in the paper. 85.2% "
        "from `deit-b-distilled-1000`. Begins with a checkpoint of one of them; the paper's "
        "teacher has the same resolution, and its published code cannot do this. 30 epochs, where "
        "the paper says 25, in 20 hours on 8 GPUs (V100). Not yet measured by us.",
        top1_pct=TOP1["DeiT-B distilled 384"],
        needs_teacher=True,
    ),
}
