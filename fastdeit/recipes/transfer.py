"""Transfer (Tables 6 and 7): models of ImageNet fine-tuned on smaller datasets; CIFAR-10 alone.

The paper names no settings. These are what its first author wrote in the issues of the published
code, and where he said nothing of a dataset, what he said of the one most like it:

- CIFAR-10 and Stanford Cars: deit#45. Batch 768, SGD at 0.01, decay 1e-4, 1,000 epochs, without
  erasing and stochastic depth. Flowers-102 is taken to be like Cars.
- CIFAR-100: dino#144 and deit#117. Batch 768, AdamW at 5e-6 before scaling (7.5e-6, as dino#81 says
  after it), decay 0.05, 1,000 epochs, no erasing among what is listed. The end of the cosine is the
  published default, 1e-5, so the rate rises towards it, as deit#117 confirms.
- iNaturalist: deit#105 and #141. Batch 768, AdamW at 7.5e-5 after scaling, decay 0.05, 360 epochs,
  erasing 0.1, stochastic depth 0.1.

Everything else is Table 9. A distilled model keeps its teacher ("it is better to keep the
distillation signal during the fine-tuning", deit#45), which must know the dataset's classes:
`deit-b-cifar10 --model regnety_160 --init-from` a RegNetY of `regnety-16gf` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastdeit.config.data import Dataset
from fastdeit.paper.transfer import TABLE_7_MODELS, dataset_row, scratch_top1, transfer_top1
from fastdeit.recipes.entry import Change, Recipe

SMALL: Change = {
    "model": {"drop_path": 0.0},
    "augment": {"erase_prob": 0.0},
    "optim": {
        "epochs": 1000,
        "optimizer": "sgd",
        "base_lr": 0.01,
        "scale_lr": False,
        "weight_decay": 1e-4,
    },
}
CIFAR_100: Change = {
    "augment": {"erase_prob": 0.0},
    "optim": {"epochs": 1000, "base_lr": 5e-6},
}
INATURALIST: Change = {
    "augment": {"erase_prob": 0.1},
    "optim": {"epochs": 360, "base_lr": 5e-5},
}


@dataclass(frozen=True, slots=True)
class Target:
    """How a dataset is fine-tuned on."""

    dataset: Dataset
    settings: Change
    """What differs from Table 9, by part of the configuration."""
    source: str
    """Who said so, for the help."""


TARGETS = (
    Target("cifar10", SMALL, "by facebookresearch/deit#45"),
    Target("cifar100", CIFAR_100, "by facebookresearch/dino#144 and deit#117"),
    Target("flowers102", SMALL, "those of CIFAR-10 and Cars, for nothing is said of Flowers"),
    Target("cars", SMALL, "by facebookresearch/deit#45"),
    Target("inat18", INATURALIST, "by facebookresearch/deit#105 and #141"),
    Target("inat19", INATURALIST, "by facebookresearch/deit#105 and #141"),
)

SOURCES = {
    "deit-b": "DeiT-B",
    "deit-b-384": "DeiT-B 384",
    "deit-b-distilled": "DeiT-B distilled",
    "deit-b-distilled-384": "DeiT-B distilled 384",
}
"""Recipe on ImageNet: its row of Table 7."""


def transfer(source: str, target: Target) -> Recipe:
    """The recipe that fine-tunes the model of another one, of ImageNet, on another dataset."""
    row = SOURCES[source]
    model = TABLE_7_MODELS[row]
    is_distilled = "distilled" in model
    size = int(model.rsplit("_", 1)[1])
    about = dataset_row(target.dataset)
    taught = " The teacher must know its classes." if is_distilled else ""
    epochs = target.settings["optim"]["epochs"]
    return Recipe(
        group=f"Transfer to {about.name}",
        model=model,
        about=f"{row} fine-tuned on {about.name} at {size} pixels (Table 7): {{top1}} in the "
        f"paper. {about.classes:,} classes, {about.train:,} images (Table 6), {epochs:,} epochs. "
        f"Begins with a checkpoint of `{source}`; the head begins anew.{taught} Settings: "
        f"{target.source}. The paper gives no time. Not yet measured by us.",
        change=target.settings
        | {"data": {"dataset": target.dataset, "image_size": size, "batch_size": 768}},
        table="Table 7",
        top1_pct=transfer_top1(row, target.dataset),
        needs_teacher=is_distilled,
        needs_init=True,
    )


def scratch(model: str, row: str) -> Recipe:
    """The recipe that trains a model on CIFAR-10 alone."""
    is_distilled = "distilled" in model
    taught = " The teacher: `regnety-16gf-cifar10-scratch`." if is_distilled else ""
    return Recipe(
        group="CIFAR-10 from scratch",
        model=model,
        about=f"{row} on CIFAR-10 alone, 7,200 epochs (section 5.4): {{top1}} in the paper. "
        "As many images as 300 epochs of ImageNet, enlarged to 224 pixels so that the augmentation "
        f"is the same; all else is Table 9.{taught} With --image-size 32 --patch-size 4 the images "
        "stay as they are, and are padded and cut. The paper gives no time. Not yet measured by "
        "us.",
        change={"data": {"dataset": "cifar10"}, "optim": {"epochs": 7200}},
        table="section 5.4",
        top1_pct=scratch_top1(row),
        needs_teacher=is_distilled,
    )


ENTRIES = {
    f"{source}-{target.dataset}": transfer(source, target)
    for target in TARGETS
    for source in SOURCES
} | {
    "regnety-16gf-cifar10-scratch": scratch("regnety_160", "RegNetY-16GF"),
    "deit-b-cifar10-scratch": scratch("deit_base_patch16_224", "DeiT-B"),
    "deit-b-distilled-cifar10-scratch": scratch(
        "deit_base_distilled_patch16_224", "DeiT-B distilled"
    ),
}
