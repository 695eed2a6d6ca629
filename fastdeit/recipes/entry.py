"""What is known of a recipe, and the two helpers that recipes are written with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fastdeit.config import DataConfig, DistillConfig, ModelConfig, RunConfig, TrainConfig
from fastdeit.errors import require


class Recipe(Protocol):
    """Completes a recipe with what it cannot know; its docstring is its help."""

    def __call__(
        self,
        train: Path,
        val: Path,
        out: Path,
        teacher: Path | None = None,
        init_from: Path | None = None,
    ) -> TrainConfig:
        """Return the configuration.

        Args:
            train: the training set.
            val: the validation set.
            out: folder of the run.
            teacher: checkpoint of the teacher; only distilled recipes take one, and need it.
            init_from: checkpoint to begin with; fine-tuning recipes need one.

        Raises:
            UserError: a path that the recipe needs is missing, or it takes no teacher.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A recipe and what the papers say of it; nothing in it was measured by us."""

    make: Recipe
    """The function."""
    group: str
    """Heading in the list of recipes."""
    model: str
    """timm's name of the model."""
    table: str | None = None
    """Where the numbers of the recipe and its accuracy come from; None without a source."""
    top1_pct: float | None = None
    """Top-1 in percent that the source gives, on the recipe's dataset; None if it gives none."""
    paper_time: str | None = None
    """What the source says of time and hardware; None if it says nothing."""
    needs_teacher: bool = False
    """Whether it cannot do without `teacher`."""
    needs_init: bool = False
    """Whether it cannot do without `init_from`."""


def table_9(
    model: str,
    train: Path,
    val: Path,
    out: Path,
    teacher: Path | None,
    init_from: Path | None,
    distillation: Literal["none", "hard", "soft"] = "none",
) -> TrainConfig:
    """The column DeiT-B of Table 9, which holds for all sizes: the defaults, and drop path."""
    return TrainConfig(
        data=DataConfig(train=train, val=val),
        model=ModelConfig(model=model, drop_path=0.1),
        distill=DistillConfig(distillation=distillation, teacher=teacher),
        run=RunConfig(out=out),
        init_from=init_from,
    )


def changed(config: TrainConfig, **parts: dict[str, Any]) -> TrainConfig:
    """A configuration with other values, which are checked as those of a new one.

    Args:
        config: what to start from; it stays as it is.
        **parts: by the name of a part (data, model, augment, optim, ...) its fields to replace.
    """
    new = {name: dataclasses.replace(getattr(config, name), **v) for name, v in parts.items()}
    return dataclasses.replace(config, **new)


def check_init(init_from: Path | None) -> None:
    """Refuse to fine-tune fresh weights.

    Raises:
        UserError: there is no checkpoint to begin with.
    """
    require(
        init_from is not None,
        "init_from",
        None,
        "is needed for a recipe that fine-tunes",
        "Pass --init-from RUN/checkpoint.pt.",
    )
