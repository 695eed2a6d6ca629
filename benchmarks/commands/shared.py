"""What several commands ask for or refuse alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastdeit.errors import require

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
IMAGE_SIZE, BATCH_SIZE = 224, 64
"""Of loaders and augmentation, unless told otherwise."""


def require_at_least(least: int, **values: int | None) -> None:
    """Refuse numbers that are too small.

    Args:
        least: what each must be at least.
        values: numbers by their options' names; None passes.

    Raises:
        UserError: one is smaller.
    """
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
    """Refuse what others would read where they are not measured.

    Raises:
        UserError: it was given.
    """
    require(
        peers or source is None,
        "source",
        source,
        "has no effect with --no-peers",
        "Leave one of the two out.",
    )
