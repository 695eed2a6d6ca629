"""What a recipe is: Table 9 with some values changed, and what the papers say of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdeit.config import DataConfig, DistillConfig, ModelConfig, RunConfig, TrainConfig
from fastdeit.errors import require

Change = dict[str, dict[str, Any]]
"""By the name of a part of the configuration (data, model, augment, optim, ...) its new values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe and what the papers say of it; nothing in it was measured by us.

    It begins as the column DeiT-B of Table 9, which holds for all sizes: the defaults, and drop
    path.
    """

    group: str
    """Heading in the list of recipes."""
    model: str
    """timm's name of the model."""
    about: str
    """Its help, in which {top1} is the accuracy."""
    change: Change = field(default_factory=dict)
    """What differs from Table 9."""
    table: str | None = None
    """Where the numbers of the recipe and its accuracy come from; None without a source."""
    top1_pct: float | None = None
    """Top-1 in percent that the source gives, on the recipe's dataset; None if it gives none."""
    paper_time: str | None = None
    """What the source says of time and hardware; None if it says nothing."""
    needs_teacher: bool = False
    """Whether it is distilled, by hard labels."""
    needs_init: bool = False
    """Whether it fine-tunes, and cannot do without `init_from`."""

    @property
    def help(self) -> str:
        """What is said of it on the command line."""
        top1 = "no top-1" if self.top1_pct is None else f"{self.top1_pct}% top-1"
        return self.about.format(top1=top1)

    def but(self, *, change: Change | None = None, **fields: Any) -> Recipe:
        """The same with other fields, and more changed than this one changes."""
        merged = {part: {**values} for part, values in self.change.items()}
        for part, values in (change or {}).items():
            merged[part] = merged.get(part, {}) | values
        return dataclasses.replace(self, change=merged, **fields)

    def make(
        self,
        train: Path,
        val: Path,
        out: Path,
        teacher: Path | None = None,
        init_from: Path | None = None,
    ) -> TrainConfig:
        """Complete the recipe with what it cannot know.

        Only distilled recipes take a teacher, and need it; fine-tuning recipes need `init_from`.
        Otherwise a UserError is raised.
        """
        require(
            init_from is not None or not self.needs_init,
            "init_from",
            None,
            "is needed for a recipe that fine-tunes",
            "Pass --init-from RUN/checkpoint.pt.",
        )
        kind: Any = "hard" if self.needs_teacher else "none"
        config = TrainConfig(
            data=DataConfig(train=train, val=val),
            model=ModelConfig(model=self.model, drop_path=0.1),
            distill=DistillConfig(distillation=kind, teacher=teacher),
            run=RunConfig(out=out),
            init_from=init_from,
        )
        return changed(config, **self.change)


def changed(config: TrainConfig, **parts: dict[str, Any]) -> TrainConfig:
    """A configuration with other values, which are checked as those of a new one.

    `parts` give by the name of a part (data, model, augment, optim, ...) its fields to replace.
    """
    new = {name: dataclasses.replace(getattr(config, name), **v) for name, v in parts.items()}
    return dataclasses.replace(config, **new)
