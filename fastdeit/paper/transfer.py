"""Tables 6 and 7, typed: the datasets that DeiT is fine-tuned on, and its accuracies there."""

from __future__ import annotations

from dataclasses import dataclass

from fastdeit.config.data import Dataset
from fastdeit.paper.tables import all_tables

IN_TABLE_6: dict[Dataset, str] = {
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "flowers102": "Flowers-102",
    "cars": "Stanford Cars",
    "inat18": "iNaturalist 2018",
    "inat19": "iNaturalist 2019",
}
"""What Table 6 calls the datasets."""

TABLE_7_MODELS = {
    "DeiT-B": "deit_base_patch16_224",
    "DeiT-B 384": "deit_base_patch16_384",
    "DeiT-B distilled": "deit_base_distilled_patch16_224",
    "DeiT-B distilled 384": "deit_base_distilled_patch16_384",
}
"""Row of Table 7: timm's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRow:
    """A dataset of Table 6."""

    name: str
    """As the paper calls it."""
    train: int
    test: int
    classes: int


def dataset_row(dataset: Dataset) -> DatasetRow:
    """The row of a dataset in Table 6."""
    rows = {row["dataset"]: row for row in all_tables()["table6_datasets"]}
    row = rows[IN_TABLE_6[dataset]]
    return DatasetRow(
        name=row["dataset"], train=row["train"], test=row["test"], classes=row["classes"]
    )


def transfer_top1(model: str, dataset: Dataset) -> float:
    """A cell of Table 7, in percent; `model` is one of TABLE_7_MODELS."""
    rows = {row["model"]: row for row in all_tables()["table7_transfer_deit"]}
    column = {"flowers102": "flowers"}.get(dataset, dataset)
    return float(rows[model][column])


def scratch_top1(model: str) -> float:
    """Accuracy in percent of training on CIFAR-10 alone (section 5.4).

    `model` is RegNetY-16GF, DeiT-B or DeiT-B distilled.
    """
    return float(all_tables()["from_scratch_cifar10"][model])
