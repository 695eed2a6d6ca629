"""What the paper gives for a model at a resolution, head by head."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastdeit.paper.tables import all_tables, resolutions, table5

DEIT_B = "deit_base_patch16"
SIZES = {"deit_tiny": "ti", "deit_small": "s", "deit_base": "b"}
EMBEDDINGS = {"class embedding": "class", "distillation embedding": "dist"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A row of one of the paper's tables."""

    name: str
    """As the paper calls it."""
    table: str
    """Where it stands."""
    head: str
    """Which head decides: class, dist or joint, as in an evaluation."""
    top1_pct: float
    """Accuracy on ImageNet in percent."""
    real_top1_pct: float | None = None
    """The same on ImageNet ReaL; None where the paper gives none."""
    v2_top1_pct: float | None = None
    """The same on ImageNet-V2 (matched frequency); None where the paper gives none."""
    epochs: int | None = None
    """Epochs of training, for DeiT at the resolution of its training."""
    throughput: float | None = None
    """Images a second; see `table5_protocol`."""


def stem(timm: str) -> str:
    """Return timm's name without the side of the images at its end."""
    return re.sub(r"_\d{3}$", "", timm)


def published(timm: str, image_size: int) -> tuple[Published, ...]:
    """The rows of a model, as timm builds it, at a resolution; training is what they differ in.

    Args:
        timm: timm's name; the size in it does not matter.
        image_size: side of the images in pixels.

    Returns:
        Rows of Table 5; else, for DeiT-B, of Table 10. For a distilled DeiT at 224 pixels also
        those of its single heads (Table 3). Empty if the paper has none.
    """
    name = stem(timm)
    head = "joint" if "distilled" in name else "class"
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
    size = SIZES.get(name.removesuffix("_distilled_patch16"))
    if size is not None and image_size == 224:
        rows += [
            Published(
                name=f"{rows[0].name}, {row['method']}",
                table="Table 3",
                head=EMBEDDINGS[row["method"]],
                top1_pct=row[size],
                epochs=300,
            )
            for row in all_tables()["table3_distillation"]
            if row["method"] in EMBEDDINGS
        ]
    return tuple(rows)


def _epochs(name: str, image_size: int) -> int | None:
    """How long a DeiT of Table 5 was trained; not for those that were fine-tuned."""
    if not name.startswith("DeiT") or image_size != 224:
        return None
    return 1000 if "1000 epochs" in name else 300
