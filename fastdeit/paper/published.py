"""What the paper gives for a model at a resolution, head by head."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fastdeit.config.data import Dataset
from fastdeit.paper.tables import all_tables, resolutions, table5
from fastdeit.paper.transfer import TABLE_7_MODELS, scratch_top1, transfer_top1

DEIT_B, DEIT_B_DISTILLED = "deit_base_patch16", "deit_base_distilled_patch16"
SIZES = {"deit_tiny": "ti", "deit_small": "s", "deit_base": "b"}
EMBEDDINGS = {"class embedding": "class", "distillation embedding": "dist"}
WITHOUT_TOKEN = {"soft": "usual distillation", "hard": "hard distillation"}
"""What Table 3 calls distillation without the token."""
FROM_SCRATCH = {
    "regnety_160": "RegNetY-16GF",
    DEIT_B: "DeiT-B",
    DEIT_B_DISTILLED: "DeiT-B distilled",
}
"""Models of section 5.4, by timm's name without the size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a model was trained, as far as the paper's tables tell models by it."""

    dataset: Dataset = "imagenet"
    """What it was trained on last."""
    is_finetuned: bool = False
    """Whether it began with the weights of another training."""
    distillation: Literal["none", "soft", "hard"] = "none"
    """What it learned of a teacher."""
    teacher: str | None = None
    """timm's name of the teacher; None without one, or where it is not known."""


PLAIN = Training()


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A row of one of the paper's tables."""

    name: str
    """As the paper calls it."""
    table: str
    head: str
    """Which head decides: class, dist or joint, as in an evaluation."""
    top1_pct: float
    """Accuracy in percent, on ImageNet or the dataset of the training."""
    real_top1_pct: float | None = None
    """The same on ImageNet ReaL; None where the paper gives none."""
    v2_top1_pct: float | None = None
    """The same on ImageNet-V2 (matched frequency); None where the paper gives none."""
    epochs: int | None = None
    """Epochs of training, for DeiT at the resolution of its training."""
    throughput: float | None = None
    """Images a second; see `table5_protocol`."""


def stem(timm: str) -> str:
    """Return timm's name without the side of a transformer's images at its end.

    The number at the end of a RegNet's name is its FLOPs, and part of what it is.
    """
    return re.sub(r"(?<=patch\d\d)_\d{3}$", "", timm)


def published(timm: str, image_size: int, training: Training = PLAIN) -> tuple[Published, ...]:
    """The rows of a model, as timm builds it, at a resolution; none if the paper has none.

    For ImageNet rows of Table 5; else, for DeiT-B, of Table 10, and for a teacher, of Table 2. Then
    what Table 3 says of the single heads of a distilled DeiT at 224 pixels, or of one that learned
    from a teacher without the token, and Table 2 of students by their teacher. For other datasets
    the cell of Table 7, or the figure of section 5.4.

    The size in timm's name does not matter. Unless given, the training is one of ImageNet without a
    teacher that is known.
    """
    name = stem(timm)
    head = "joint" if "distilled" in name else "class"
    if training.dataset != "imagenet":
        return _transferred(name, image_size, training, head)
    rows = [
        Published(
            name=row.name,
            table="Table 5",
            head=head,
            top1_pct=row.top1,
            real_top1_pct=row.real,
            v2_top1_pct=row.v2,
            epochs=_epochs(row.name, row.image_size),
            throughput=row.throughput,
        )
        for row in table5()
        if stem(row.timm) == name and row.image_size == image_size
    ]
    if not rows and name == DEIT_B:
        rows = [
            Published(
                name=f"DeiT-B at {image_size}",
                table="Table 10",
                head=head,
                top1_pct=row.top1,
                real_top1_pct=row.real,
                v2_top1_pct=row.v2,
                throughput=row.throughput,
            )
            for row in resolutions()
            if row.image_size == image_size
        ]
    if not rows and image_size == 224:
        rows = [
            Published(name=row["teacher"], table="Table 2", head=head, top1_pct=row["teacher_top1"])
            for row in all_tables()["table2_teachers"]
            if row.get("timm") == name
        ]
    return (
        *rows,
        *_by_method(name, image_size, training),
        *_by_teacher(name, image_size, training),
    )


def _by_method(name: str, image_size: int, training: Training) -> list[Published]:
    """What Table 3 has beyond Table 5: single heads, and distillation without the token."""
    size = SIZES.get(name.removesuffix("_distilled_patch16").removesuffix("_patch16"))
    if size is None or image_size != 224:
        return []
    model = f"DeiT-{size.capitalize()}"
    heads = {
        method: "class" for kind, method in WITHOUT_TOKEN.items() if kind == training.distillation
    }
    if "distilled" in name:
        heads, model = EMBEDDINGS, f"{model} distilled"
    return [
        Published(
            name=f"{model}, {row['method']}",
            table="Table 3",
            head=heads[row["method"]],
            top1_pct=row[size],
            epochs=300,
        )
        for row in all_tables()["table3_distillation"]
        if row["method"] in heads
    ]


def _by_teacher(name: str, image_size: int, training: Training) -> list[Published]:
    """What Table 2 says of DeiT-B's student of a teacher; it does not say which head decides."""
    column = {224: "student_top1", 384: "student_384_top1"}.get(image_size)
    if name != DEIT_B_DISTILLED or column is None or training.teacher is None:
        return []
    return [
        Published(
            name=f"DeiT-B, student of {row['teacher']}",
            table="Table 2",
            head="joint",
            top1_pct=row[column],
        )
        for row in all_tables()["table2_teachers"]
        if row.get("timm") == training.teacher and row[column] is not None
    ]


def _transferred(
    name: str, image_size: int, training: Training, head: str
) -> tuple[Published, ...]:
    """The one figure of a model on another dataset than ImageNet, if there is one."""
    if training.is_finetuned:
        models = {(stem(timm), int(timm[-3:])): row for row, timm in TABLE_7_MODELS.items()}
        row, table = models.get((name, image_size)), "Table 7"
        top1_pct = None if row is None else transfer_top1(row, training.dataset)
    else:
        row, table = FROM_SCRATCH.get(name), "section 5.4"
        is_known = row is not None and training.dataset == "cifar10"
        top1_pct = scratch_top1(row) if row is not None and is_known else None
    if row is None or top1_pct is None:
        return ()
    return (Published(name=row, table=table, head=head, top1_pct=top1_pct),)


def _epochs(name: str, image_size: int) -> int | None:
    """How long a DeiT of Table 5 was trained; not for those that were fine-tuned."""
    if not name.startswith("DeiT") or image_size != 224:
        return None
    return 1000 if "1000 epochs" in name else 300
