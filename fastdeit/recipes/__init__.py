"""Recipes: what a run needs beside its data, as rows of what differs from the paper's Table 9.

A recipe's help says the paper's table and accuracy, and whether we measured it. "The paper" is
arXiv:2012.12877. Nothing here imports torch.
"""

import difflib
from collections.abc import Callable
from typing import Any

from fastdeit.config import TrainConfig
from fastdeit.errors import UserError
from fastdeit.recipes import ablation, convnets, deit, deit3, demo, finetune, transfer
from fastdeit.recipes.entry import Recipe

ENTRIES: dict[str, Recipe] = {
    **demo.ENTRIES,
    **deit.ENTRIES,
    **finetune.ENTRIES,
    **ablation.ENTRIES,
    **convnets.ENTRIES,
    **deit3.ENTRIES,
    **transfer.ENTRIES,
}
"""What is known of every recipe, by its name on the command line."""

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    name: entry.make for name, entry in ENTRIES.items()
}
"""What completes each of them with its paths."""


def check_recipe_name(name: str) -> None:
    """Raise a UserError that names what is near where there is no such recipe."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=4, cutoff=0.5)
        raise UserError(
            f"no such recipe. Found: {name}. Near it: {', '.join(near) or 'nothing'}. "
            "`fastdeit train --list` shows all."
        )


def fill_recipe(name: str, path: Any) -> TrainConfig:
    """A recipe's configuration with `path` for every path that it needs.

    It may be the parser's mark for a value that must be given. Raises UserError if there is no such
    recipe.
    """
    check_recipe_name(name)
    entry = ENTRIES[name]
    return entry.make(
        train=path,
        val=path,
        out=path,
        teacher=path if entry.needs_teacher else None,
        init_from=path if entry.needs_init else None,
    )


__all__ = [
    "ENTRIES",
    "RECIPES",
    "Recipe",
    "check_recipe_name",
    "fill_recipe",
]
