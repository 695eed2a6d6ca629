"""The paper's teachers: RegNetY trained as DeiT is.

Section 5.2: "trained with the same data and same data-augmentation as DeiT"; the note to Table 5:
"optimized with a similar optimization procedure". What differs, the paper does not say: no
learning rate, weight decay or stochastic depth of their own. So these are Table 9 unchanged.
"""

from __future__ import annotations

from pathlib import Path

from fastdeit.config import TrainConfig
from fastdeit.recipes.entry import Entry, table_9


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


GROUP = "Teachers"

ENTRIES = {
    "regnety-4gf": Entry(regnety_4gf, GROUP, "regnety_040", "Table 5", 80.0),
    "regnety-8gf": Entry(regnety_8gf, GROUP, "regnety_080", "Table 5", 81.7),
    "regnety-12gf": Entry(regnety_12gf, GROUP, "regnety_120", "Table 2", 82.4),
    "regnety-16gf": Entry(
        regnety_16gf, GROUP, "regnety_160", "Table 5", 82.9, "1.2 x 53 hours on 8 GPUs (V100)"
    ),
}
