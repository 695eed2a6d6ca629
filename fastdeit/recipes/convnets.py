"""The paper's teachers: RegNetY trained as DeiT is.

Section 5.2: "trained with the same data and same data-augmentation as DeiT"; the note to Table 5:
"optimized with a similar optimization procedure". What differs, the paper does not say: no
learning rate, weight decay or stochastic depth of their own. So these are Table 9 unchanged.
"""

from __future__ import annotations

from fastdeit.recipes.deit import NEITHER, TOP1
from fastdeit.recipes.entry import Recipe

GROUP = "Teachers"


def teacher(
    name: str,
    model: str,
    where: str = "a teacher (Tables 2 and 5)",
    time: str = "It gives no time.",
    top1_pct: float | None = None,
    table: str = "Table 5",
    paper_time: str | None = None,
) -> Recipe:
    """A RegNetY; its accuracy is Table 5's unless given."""
    return Recipe(
        group=GROUP,
        model=model,
        about=f'{name}, {where}: {{top1}} in the paper. Data and augmentation of DeiT, and "a '
        'similar optimization procedure", of which the paper gives no numbers: here all of Table '
        f"9. {time} Not yet measured by us.",
        table=table,
        top1_pct=TOP1[name] if top1_pct is None else top1_pct,
        paper_time=paper_time,
    )


FIXRES_384 = Recipe(
    group=GROUP,
    model="regnety_160",
    about="RegNetY-16GF at 384 pixels, the teacher of `deit-b-distilled-384`: {top1} in the paper. "
    "Begins with a checkpoint of `regnety-16gf` and trains its classifier and last batch norm "
    "alone (FixRes, arXiv:1906.06423; the paper, section 4, takes that method for the teacher). "
    "Its published code's settings for a ResNet-50 at 384 pixels: the centre crop of evaluation, "
    "batch 512, SGD at 0.008 (1e-3 x 8), decay 1e-4, 56 epochs. It divides the rate by 10 after "
    "30; here it follows a cosine to 0. A flip is its only augmentation. It gives no time. Not yet "
    "measured by us.",
    change=NEITHER
    | {
        "data": {"image_size": 384, "batch_size": 512, "repeats": 1, "train_crop": "center"},
        "model": {"drop_path": 0.0},
        "optim": {
            "trainable": "classifier",
            "epochs": 56,
            "optimizer": "sgd",
            "base_lr": 8e-3,
            "min_lr": 0.0,
            "warmup_epochs": 0,
            "weight_decay": 1e-4,
            "ema_decay": 0.0,
        },
    },
    needs_init=True,
)

ENTRIES = {
    "regnety-4gf": teacher("RegNetY-4GF", "regnety_040"),
    "regnety-8gf": teacher("RegNetY-8GF", "regnety_080"),
    "regnety-12gf": teacher(
        "RegNetY-12GF", "regnety_120", "a teacher (Table 2)", top1_pct=82.4, table="Table 2"
    ),
    "regnety-16gf": teacher(
        "RegNetY-16GF",
        "regnety_160",
        "the default teacher (Tables 2 and 5)",
        "The paper: 20% slower than DeiT-B's 53 hours on 8 GPUs (V100).",
        paper_time="1.2 x 53 hours on 8 GPUs (V100)",
    ),
    "regnety-16gf-fixres-384": FIXRES_384,
}
