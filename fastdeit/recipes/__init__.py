"""Recipes: functions that return what a run needs beside its data.

A recipe's docstring says the paper's table and accuracy, and whether we measured it; `ENTRIES`
holds the same as fields. "The paper" is arXiv:2012.12877. Nothing here imports torch.
"""

from fastdeit.recipes import ablation, convnets, deit, deit3, demo, finetune
from fastdeit.recipes.demo import demo_teacher
from fastdeit.recipes.entry import Entry, Recipe

ENTRIES: dict[str, Entry] = {
    **demo.ENTRIES,
    **deit.ENTRIES,
    **finetune.ENTRIES,
    **ablation.ENTRIES,
    **convnets.ENTRIES,
    **deit3.ENTRIES,
}
"""What is known of every recipe, by its name on the command line."""

RECIPES: dict[str, Recipe] = {name: entry.make for name, entry in ENTRIES.items()}
"""The functions alone."""

NEED_TEACHER = frozenset(name for name, entry in ENTRIES.items() if entry.needs_teacher)
"""Recipes that cannot do without `teacher`."""

NEED_INIT = frozenset(name for name, entry in ENTRIES.items() if entry.needs_init)
"""Recipes that cannot do without `init_from`."""

__all__ = ["ENTRIES", "NEED_INIT", "NEED_TEACHER", "RECIPES", "Entry", "Recipe", "demo_teacher"]
