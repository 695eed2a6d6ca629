"""Recipes: functions that return what a run needs beside its data.

A recipe's docstring says the paper's table and accuracy, and whether we measured it; `ENTRIES`
holds the same as fields. "The paper" is arXiv:2012.12877. Nothing here imports torch.
"""

from typing import Any

from fastdeit.config import TrainConfig
from fastdeit.recipes import ablation, convnets, deit, deit3, demo, finetune, transfer
from fastdeit.recipes.demo import demo_teacher
from fastdeit.recipes.entry import Entry, Recipe

ENTRIES: dict[str, Entry] = {
    **demo.ENTRIES,
    **deit.ENTRIES,
    **finetune.ENTRIES,
    **ablation.ENTRIES,
    **convnets.ENTRIES,
    **deit3.ENTRIES,
    **transfer.ENTRIES,
}
"""What is known of every recipe, by its name on the command line."""

RECIPES: dict[str, Recipe] = {name: entry.make for name, entry in ENTRIES.items()}
"""The functions alone."""


def fill_recipe(name: str, path: Any) -> TrainConfig:
    """A recipe's configuration with `path` for every path that it needs.

    Args:
        name: of the recipe.
        path: a path, or the parser's mark for a value that must be given.
    """
    entry = ENTRIES[name]
    return entry.make(
        train=path,
        val=path,
        out=path,
        teacher=path if entry.needs_teacher else None,
        init_from=path if entry.needs_init else None,
    )


__all__ = ["ENTRIES", "RECIPES", "Entry", "Recipe", "demo_teacher", "fill_recipe"]
