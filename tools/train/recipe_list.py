"""The recipes on the command line: `fastdeit train --list`, and what is said of an unknown one."""

from __future__ import annotations

from pathlib import Path

from fastdeit.recipes import ENTRIES, check_recipe_name, fill_recipe
from fastdeit.text.tables import text_table

COLUMNS = ("recipe", "model", "epochs", "pixels", "batch", "top-1", "source", "needs")
SIDES = "llrrrrll"


def help_of(name: str) -> str:
    """What is said of a recipe, on one line."""
    return ENTRIES[name].help


def check_recipe(args: list[str]) -> None:
    """Answer --list; name what is near where the first word is no recipe.

    Args:
        args: the arguments after `fastdeit train`.

    Raises:
        SystemExit: with 0, after the list.
        UserError: there is no such recipe.
    """
    if "--list" in args:
        print(list_recipes())
        raise SystemExit(0)
    if args and not args[0].startswith("-"):
        check_recipe_name(args[0])


def list_recipes() -> str:
    """The table of all recipes, in groups."""
    header, *rows = text_table([COLUMNS, *map(_row, ENTRIES)], SIDES).split("\n")
    lines, group = [header], None
    for entry, row in zip(ENTRIES.values(), rows, strict=True):
        if entry.group != group:
            group = entry.group
            lines += ["", group]
        lines.append(row)
    lines += [
        "",
        "top-1: percent that the source reports, on ImageNet or the dataset of the heading; none "
        "is measured by us yet.",
        "source: a table of arXiv:2012.12877, or DeiT-III's own README (arXiv:2204.07118).",
        "`fastdeit train RECIPE --help` says more of one.",
    ]
    return "\n".join(lines)


def _row(name: str) -> tuple[str, ...]:
    entry, config = ENTRIES[name], fill_recipe(name, Path())
    needs = [
        option
        for option, is_needed in (
            ("--teacher", entry.needs_teacher),
            ("--init-from", entry.needs_init),
        )
        if is_needed
    ]
    return (
        name,
        entry.model,
        str(config.optim.epochs),
        str(config.data.image_size),
        str(config.data.batch_size),
        "-" if entry.top1_pct is None else f"{entry.top1_pct:.1f}",
        entry.table or "-",
        " ".join(needs) or "-",
    )
