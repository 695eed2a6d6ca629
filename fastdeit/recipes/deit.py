"""The paper's models at 224 pixels, plain and distilled, 300 and 1,000 epochs; ViT-B's column."""

from __future__ import annotations

from fastdeit.paper.tables import table5
from fastdeit.recipes.entry import Change, Recipe

SMALLER_TIME = "less than 3 days on 4 GPUs (V100)"
BASE_TIME = "53 hours on 8 GPUs, 37 hours on 16 (V100)"
PLAIN, DISTILLED = "DeiT at 224 pixels", "DeiT distilled at 224 pixels"
TOP1 = {row.name: row.top1 for row in table5()}
LONG: Change = {"optim": {"epochs": 1000}}
NEITHER: Change = {
    "augment": {
        "auto_augment": "none",
        "erase_prob": 0.0,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "smoothing": 0.0,
    }
}
"""No augmentation but crop and flip, no smoothing."""
ONLY_DISTILLED = (
    "Only the distilled models have 1,000-epoch accuracies there (Table 5). It gives no time."
)
SATURATES = (
    "Figure 3 says that it saturates after 400 epochs without distillation. The paper gives no "
    "time."
)


def plain(name: str, model: str, time: str, told: str) -> Recipe:
    """A size of DeiT in 300 epochs."""
    return Recipe(
        group=PLAIN,
        model=model,
        about=f"{name}, 300 epochs (Tables 5 and 9): {{top1}} in the paper. "
        f"The paper: {told}. Not yet measured by us.",
        table="Table 5",
        top1_pct=TOP1[name],
        paper_time=time,
    )


def longer(name: str, base: Recipe, told: str) -> Recipe:
    """The same in 1,000 epochs."""
    about = (
        f"{name}, 1,000 epochs of Table 9 without distillation: {{top1}} in the paper. {told} "
        "Not yet measured by us."
    )
    return base.but(change=LONG, about=about, table=None, top1_pct=None, paper_time=None)


def distilled(name: str, model: str) -> Recipe:
    """A size distilled in 300 epochs."""
    return Recipe(
        group=DISTILLED,
        model=model,
        about=f"{name} distilled, 300 epochs (Tables 3 and 5): {{top1}} in the paper, both heads "
        "joined. Hard distillation through the token; the paper's teacher is a RegNetY-16GF of "
        "82.9%, which `regnety-16gf` trains. It gives no time. Not yet measured by us.",
        table="Table 5",
        top1_pct=TOP1[f"{name} distilled"],
        needs_teacher=True,
    )


def _distilled_longer(name: str, recipe: str, base: Recipe) -> Recipe:
    """The same in 1,000 epochs."""
    about = (
        f"{name} distilled, 1,000 epochs (Table 5): {{top1}} in the paper, both heads joined. "
        f"As `{recipe}` for longer. The paper gives no time. Not yet measured by us."
    )
    top1_pct = TOP1[f"{name} distilled, 1000 epochs"]
    return base.but(change=LONG, about=about, top1_pct=top1_pct)


TI = plain("DeiT-Ti", "deit_tiny_patch16_224", SMALLER_TIME, SMALLER_TIME)
S = plain("DeiT-S", "deit_small_patch16_224", SMALLER_TIME, SMALLER_TIME)
B = plain("DeiT-B", "deit_base_patch16_224", BASE_TIME, "53 hours on one node of 8 GPUs (V100)")
TI_DISTILLED = distilled("DeiT-Ti", "deit_tiny_distilled_patch16_224")
S_DISTILLED = distilled("DeiT-S", "deit_small_distilled_patch16_224")
B_DISTILLED = distilled("DeiT-B", "deit_base_distilled_patch16_224")
VIT_B = Recipe(
    group=PLAIN,
    model="vit_base_patch16_224",
    about="ViT-B as the paper lists it beside DeiT-B (Table 9): {top1} at 224 pixels in the paper. "
    "Table 5 has 77.9%, fine-tuned at 384 pixels. Table 9 names no norm for its gradient clipping "
    "(1 here) and no augmentation (crop and flip here); the weights begin as DeiT's. The paper "
    "gives no time. Not yet measured by us.",
    change=NEITHER
    | {
        "data": {"batch_size": 4096, "repeats": 1},
        "model": {"drop_path": 0.0, "dropout": 0.1},
        "optim": {
            "base_lr": 3e-3,
            "scale_lr": False,
            "weight_decay": 0.3,
            "warmup_epochs": 3.4,
            "clip_grad": 1.0,
            "ema_decay": 0.0,
        },
    },
    table="Table 9",
)

ENTRIES = {
    "deit-ti": TI,
    "deit-s": S,
    "deit-b": B,
    "deit-ti-1000": longer("DeiT-Ti", TI, ONLY_DISTILLED),
    "deit-s-1000": longer("DeiT-S", S, ONLY_DISTILLED),
    "deit-b-1000": longer("DeiT-B", B, SATURATES),
    "vit-b": VIT_B,
    "deit-ti-distilled": TI_DISTILLED,
    "deit-s-distilled": S_DISTILLED,
    "deit-b-distilled": B_DISTILLED,
    "deit-ti-distilled-1000": _distilled_longer("DeiT-Ti", "deit-ti-distilled", TI_DISTILLED),
    "deit-s-distilled-1000": _distilled_longer("DeiT-S", "deit-s-distilled", S_DISTILLED),
    "deit-b-distilled-1000": _distilled_longer("DeiT-B", "deit-b-distilled", B_DISTILLED),
}
