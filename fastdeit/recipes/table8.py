"""Table 8 as runs: which recipe trains a row, and which one fine-tunes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastdeit.config import TrainConfig
from fastdeit.recipes import fill_recipe

BASE, FINETUNE = "deit-b", "deit-b-384"

RowName = Literal[
    "none",
    "sgd",
    "finetune-sgd",
    "no-randaugment",
    "autoaugment",
    "no-mixup",
    "no-cutmix",
    "no-mix",
    "no-erasing",
    "no-stochastic-depth",
    "no-repeats",
    "dropout",
    "ema",
]


@dataclass(frozen=True, slots=True)
class Row:
    """How a row comes about."""

    paper: str
    """What the table changes, in its words."""
    recipe: str = BASE
    """Recipe of its training at 224 pixels."""
    finetune: str = FINETUNE
    weights: Literal["raw", "ema"] = "raw"
    """Which weights are judged after training, and fine-tuned."""


ROWS: dict[RowName, Row] = {
    "none": Row("none"),
    "sgd": Row("pretrain optimizer SGD", "deit-b-sgd"),
    "finetune-sgd": Row("finetune optimizer SGD", finetune="deit-b-384-sgd"),
    "no-randaugment": Row("no RandAugment", "deit-b-no-randaugment"),
    "autoaugment": Row("AutoAugment instead of RandAugment", "deit-b-autoaugment"),
    "no-mixup": Row("no Mixup", "deit-b-no-mixup"),
    "no-cutmix": Row("no CutMix", "deit-b-no-cutmix"),
    "no-mix": Row("no Mixup, no CutMix", "deit-b-no-mix"),
    "no-erasing": Row("no random erasing", "deit-b-no-erasing"),
    "no-stochastic-depth": Row("no stochastic depth", "deit-b-no-stochastic-depth"),
    "no-repeats": Row("no repeated augmentation", "deit-b-no-repeats"),
    "dropout": Row("dropout", "deit-b-dropout"),
    "ema": Row("exponential moving average", "deit-b-ema", weights="ema"),
}
"""Table 8 in the paper's order."""


def flat(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration by dotted names; those of the whole have no dot."""
    fields: dict[str, Any] = {}
    for part, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            fields |= {f"{part}.{name}": each for name, each in value.items()}
        else:
            fields[part] = value
    return fields


def own_fields(recipe: str) -> dict[str, Any]:
    """In which fields a recipe differs from `deit-b`, and its values there."""
    base, own = (flat(fill_recipe(name, Path())) for name in (BASE, recipe))
    return {
        name: value for name, value in own.items() if value != base[name] and name != "init_from"
    }


def kept_in_finetuning(row: Row) -> dict[str, Any]:
    """What a row changes in its fine-tuning too.

    Its augmentation and regularisation: the paper keeps "the training-time data augmentation" when
    it fine-tunes, and Table 8 has one column of each for both. The optimiser has two columns.
    """
    return {
        name: value
        for name, value in own_fields(row.recipe).items()
        if not name.startswith("optim.")
    }
