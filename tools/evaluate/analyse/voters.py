"""The models that an analysis looks at: reading CHECKPOINT:HEAD, naming, opening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastdeit.errors import UserError
from fastdeit.measured.run import EVALUATION
from fastdeit.tools.evaluate.validation import locate_set

if TYPE_CHECKING:
    from torch import nn

    from fastdeit.pipelines.datasets.index import DatasetIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class Voter:
    """A model, and those of its heads whose decisions are wanted."""

    name: str
    """What it is called."""
    path: Path
    """Its checkpoint."""
    timm: str
    """timm's name."""
    image_size: int
    """Side of its images in pixels."""
    heads: tuple[str, ...]
    """In the order that was asked for."""
    model: nn.Module
    """In evaluation mode, on the CPU; its classes stand as those of the set."""

    def title(self, head: str) -> str:
        """What a head is called in tables."""
        return self.name if head == "class" and self.heads == ("class",) else f"{self.name} {head}"


def split_head(text: str) -> tuple[Path, str | None]:
    """CHECKPOINT:HEAD as (path, head); without a head, or if the whole is a file, None."""
    path, colon, head = text.rpartition(":")
    if not colon or Path(text).exists() or "/" in head:
        return Path(text), None
    return Path(path), head


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for each: its folder's, with the file's where it is not the usual; else the path.

    Args:
        paths: of checkpoints, evaluations, or folders of runs.
    """

    def short(path: Path) -> str:
        if path.suffix not in (".pt", ".json"):  # a folder
            return path.resolve().name
        folder = path.resolve().parent.name
        is_usual = path.name in ("checkpoint.pt", EVALUATION)
        return folder if is_usual else f"{folder}/{path.stem}"

    names = {path: short(path) for path in paths}
    is_used_twice = {name for name in names.values() if [*names.values()].count(name) > 1}
    return [str(path) if names[path] in is_used_twice else names[path] for path in paths]


def open_voters(
    checkpoints: Sequence[str],
    index: DatasetIndex,
    weights: Literal["raw", "ema"],
    image_size: int | None,
) -> list[Voter]:
    """Read each checkpoint once, with all the heads that are wanted of it.

    Args:
        checkpoints: each CHECKPOINT, for all its heads, or CHECKPOINT:HEAD.
        index: the set that they will look at.
        weights: raw, as trained, or ema, their moving average.
        image_size: side of the images in pixels for all of them; None takes each one's own.

    Raises:
        UserError: a checkpoint cannot be read, is of other classes, or has no such head.
    """
    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.models import head_names
    from fastdeit.models.initialise import take_classes

    wanted: dict[Path, list[str | None]] = {}
    for text in checkpoints:
        path, head = split_head(text)
        wanted.setdefault(path, []).append(head)
    voters = []
    for path, name in zip(wanted, short_names([*wanted]), strict=True):
        content: dict[str, Any] = load_checkpoint(path)
        located = locate_set(index, content, path)
        model = model_from_checkpoint(content, weights, image_size)
        take_classes(model, located)
        has = head_names(model)
        heads: list[str] = []
        for head in wanted[path]:
            if head is not None and head not in has:
                raise UserError(
                    f"head must be one of {', '.join(has)} for {path}. Found: {head}. "
                    f"Pass {path}:{has[0]}, or the path alone for all of them."
                )
            heads += has if head is None else (head,)
        voters.append(
            Voter(
                name=name,
                path=path,
                timm=content["model_config"]["model"],
                image_size=image_size or content["image_size"],
                heads=tuple(dict.fromkeys(heads)),
                model=model,
            )
        )
    return voters
