"""Options that several commands have, each with one description, and what is refused of them.

Nothing here, nor what a module of a command imports at once, imports torch: help and errors are
quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdeit.errors import require

IMAGE_SIZE, BATCH_SIZE = 224, 64
"""Of loaders and augmentation, unless told otherwise."""

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Out = Annotated[
    Path | None,
    tyro.conf.arg(
        help="folder for the rows, a report and charts, bench-DATE unless given; rows of other "
        "benchmarks there stay."
    ),
]
Device = Annotated[str, tyro.conf.arg(help="where: auto, cpu, cuda or cuda:N.")]
Rounds = Annotated[int, tyro.conf.arg(help="timed rounds of each.")]
Threads = Annotated[
    int, tyro.conf.arg(help="threads or workers of each; 0 takes every usable core.")
]
Data = Annotated[Path, tyro.conf.arg(help="dataset for our engines, best a .beton.")]
Source = Annotated[
    Path | None,
    tyro.conf.arg(
        help="ImageFolder of the same images, for DALI's and DeiT's own pipelines; they are left "
        "out without it."
    ),
]
ImageSize = Annotated[int, tyro.conf.arg(help="side of the images in pixels.")]
Peers = Annotated[bool, tyro.conf.arg(help="whether others are measured beside ours.")]


LEAST = {
    "rounds": 1,
    "batch_size": 1,
    "max_batch_size": 1,
    "num_images": 1,
    "threads": 0,
    "image_size": 16,
}
"""Of numbers, by the options' names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Options of which too small numbers are refused."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in LEAST.items():
            values = getattr(self, name, None)
            for value in values if isinstance(values, tuple) else (values,):
                require_at_least(least, **{name: value})


def require_at_least(least: int, **values: int | None) -> None:
    """Refuse numbers, by their options' names, that are smaller than `least`; None passes."""
    for name, value in values.items():
        option = name.replace("_", "-")
        require(
            value is None or value >= least,
            name,
            value,
            f"must be at least {least}",
            f"Leave out --{option}.",
        )


def require_peers(peers: bool, source: Path | None) -> None:
    """Refuse what others would read where they are not measured."""
    require(
        peers or source is None,
        "source",
        source,
        "has no effect with --no-peers",
        "Leave one of the two out.",
    )
