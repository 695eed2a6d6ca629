"""Rows of the paper's tables, typed; only what the program uses."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

TWINS = {"vit_base_patch16_384": "deit_base_patch16_384"}
"""timm's name: another of timm's names for the same architecture at the same resolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A model of Table 5."""

    name: str
    """As the paper calls it, with what tells it from its neighbours."""
    timm: str
    """timm's name of its architecture."""
    family: Literal["convnet", "transformer"]
    params_m: float
    """Parameters in millions."""
    image_size: int
    """Side of its images in pixels."""
    throughput: float
    """Images a second; see `table5_protocol`."""
    top1: float
    """Accuracy on ImageNet in percent."""
    real: float | None
    """The same on ImageNet ReaL; None where the paper gives none."""
    v2: float | None
    """The same on ImageNet-V2 (matched frequency); None where the paper gives none."""
    note: str | None = None

    @property
    def architecture(self) -> tuple[str, int]:
        """What decides its speed: (timm's name, side of the images in pixels)."""
        return TWINS.get(self.timm, self.timm), self.image_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """A row of Table 10: DeiT-B, trained at 224 pixels and fine-tuned at another size."""

    image_size: int
    """Side of its images in pixels."""
    throughput: float
    """Images a second, as in Table 5."""
    top1: float
    """Accuracy on ImageNet in percent."""
    real: float | None
    """The same on ImageNet ReaL."""
    v2: float | None
    """The same on ImageNet-V2; None where the paper gives none."""


@functools.cache
def all_tables() -> dict[str, Any]:
    """What tables.json holds: each table under its number and subject, `source` and `units`."""
    tables: dict[str, Any] = json.loads(
        (files("fastdeit.paper") / "tables.json").read_text("utf-8")
    )
    return tables


def table5() -> tuple[PaperRow, ...]:
    """Table 5, in the paper's order: accuracy and speed of convnets and transformers."""
    rows = (dict(row) for row in all_tables()["table5"])
    return tuple(PaperRow(name=row.pop("model"), **row) for row in rows)


def table5_protocol() -> str:
    """How the throughput of Tables 1, 5 and 10 was measured."""
    return str(all_tables()["table5_protocol"])


def resolutions() -> tuple[Resolution, ...]:
    """Table 10, from the smallest size to the largest."""
    return tuple(Resolution(**row) for row in all_tables()["table10_resolutions_deit_b"])


def rows_of_architecture(timm: str, image_size: int) -> tuple[PaperRow, ...]:
    """The rows of Table 5 that one measurement stands for, in the paper's order.

    They differ in their training only; none if the paper has no such model at that size.
    """
    wanted = TWINS.get(timm, timm), image_size
    return tuple(row for row in table5() if row.architecture == wanted)
