"""Table 4 and what stands beside it: on how much heads and tokens agree."""

from __future__ import annotations

from dataclasses import dataclass

from fastdeit.paper.tables import all_tables

GROUND_TRUTH = "groundtruth"
CONVNET = "convnet"
DEIT = "deit"
HEADS = {
    "class": "deit_b class",
    "dist": "deit_b distillation",
    "joint": "deit_b class+distillation",
}
"""The part of each head of a distilled model."""
TABLE4_MODELS = "RegNetY-16GF, DeiT-B and DeiT-B distilled, on ImageNet"
"""Whose decisions Table 4 compares. Source: paper section 5.2."""


@dataclass(frozen=True, slots=True)
class TokenCosines:
    """Cosines between the class and the distillation token. Source: paper section 4."""

    learned: float
    """Of the learned tokens."""
    last: float
    """Of their embeddings after the last layer."""


def token_cosines() -> TokenCosines:
    """What the paper found."""
    found = all_tables()["table4_disagreement"]["token_cosine"]
    return TokenCosines(found["learned tokens"], found["output embeddings"])


def table4_rate(one: str | None, other: str | None) -> float | None:
    """The fraction of images on which two parts of Table 4 decide differently.

    A part is such as GROUND_TRUTH; None stands for what has no part in the table. None where the
    table has no such pair.
    """
    table = all_tables()["table4_disagreement"]
    order: list[str] = table["order"]
    if one not in order or other not in order or one == other:
        return None
    return float(table["rate"][order.index(one)][order.index(other)])


def table4_part(timm: str, head: str) -> str | None:
    """The part that a model, by timm's name, and its head play in Table 4; None if none.

    Any size plays it: a smaller DeiT stands where DeiT-B stands in the paper.
    """
    if timm.startswith("deit_"):
        return HEADS.get(head) if "distilled" in timm else DEIT
    families = {
        row["timm"].rstrip("0123456789").split("_")[0]
        for row in all_tables()["table5"]
        if row["family"] == "convnet"
    }
    # timm's small models for tests are called test_resnet and so on.
    return CONVNET if timm.removeprefix("test_").startswith(tuple(families)) else None
