"""An evaluation class by class: what is said of it, what is kept, and the confusion matrix."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdeit.errors import UserError, require
from fastdeit.files import check_ours, replacing
from fastdeit.measured.run import MOST_CLASSES
from fastdeit.text.plots import cut, house_style, new_figure, save_png
from fastdeit.text.tables import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fastdeit.checkpoints.classes import Classes, Located
    from fastdeit.training.evaluate import ClassCounts

NUM_WORST = 10
NUM_CONFUSED = 20
MOST_WITH_COUNTS = 30
"""Up to so many classes the cells of the picture have room for their counts."""
COMMAND = "fastdeit evaluate"
CORNER = f"true / predicted ({COMMAND})"
"""The first cell of a matrix of ours, by which the file may be replaced later."""


def check_confusion(path: Path) -> None:
    """Refuse a file that cannot be written as a matrix, or that is something else."""
    rule = "must end in .csv or .png"
    is_known = path.suffix.lower() in (".csv", ".png")
    require(is_known, "confusion", path, rule, f"Pass --confusion {path}.csv.")
    check_ours(path, COMMAND, "--confusion", "confusion matrix", COMMAND)


def check_drawable(path: Path, num_classes: int) -> None:
    """Refuse a picture of more classes than can be read."""
    if path.suffix.lower() == ".png" and num_classes > MOST_CLASSES:
        raise UserError(
            f"a confusion matrix is drawn for up to {MOST_CLASSES} classes. "
            f"Found: {num_classes:,}. Pass --confusion {path.with_suffix('.csv')}."
        )


def titles_of(classes: Classes, model: Classes, located: Located) -> list[str]:
    """What the classes of a set are called, each in another way.

    Where the set only numbers them, they have the names of the model.
    """
    if classes.are_numbered:
        names = [model.names[number] for number in located.numbers]
        ids = [model.ids[number] for number in located.numbers] if model.ids else names
    else:
        names, ids = [*classes.names], [*(classes.ids or classes.names)]
    shared = {name for name in names if names.count(name) > 1} if len({*names}) < len(names) else ()
    return [
        f"{name} ({number if ids[number] == name else ids[number]})" if name in shared else name
        for number, name in enumerate(names)
    ]


def class_facts(counts: ClassCounts, titles: Sequence[str], weights: str) -> dict[str, Any]:
    """The same for JSON, of the last head: lists in the order of the classes."""
    head = [*counts.correct][-1]
    facts = {
        "head": head,
        "weights": weights,
        "names": [*titles],
        "total": counts.total.tolist(),
        "correct": counts.correct[head].tolist(),
    }
    if counts.confusion is not None:
        facts["confused"] = most_confused(counts.confusion)
    return facts


def most_confused(confusion: NDArray[np.int64]) -> list[list[int]]:
    """The most frequent confusions: (class, what it was taken for, how often)."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSED]
    places = np.stack(np.unravel_index(order, wrong.shape), axis=1).tolist()
    return [[true, taken, int(wrong[true, taken])] for true, taken in places if wrong[true, taken]]


def explain_classes(counts: ClassCounts, titles: Sequence[str], weights: str) -> str:
    """The mean over the classes and the worst of them, for the user."""
    head = [*counts.correct][-1]
    has = np.flatnonzero(counts.total)
    empty = len(counts.total) - len(has)
    among = f"{len(has):,} classes"
    if empty:
        among = f"the {len(has):,} of {len(counts.total):,} classes that have an image"
    mean = f"top-1 of the {head} head ({weights}) as the mean over {among}"
    lines = [["worst classes", "right", "images", "top-1 %"]]
    share = counts.correct[head][has] / counts.total[has]
    # Of classes alike the largest is the surest.
    for number in has[np.lexsort((-counts.total[has], share))][:NUM_WORST].tolist():
        right, total = int(counts.correct[head][number]), int(counts.total[number])
        cells = [f"{right:,}", f"{total:,}", f"{100 * right / total:.2f}"]
        lines.append([cut(titles[number]), *cells])
    return f"{mean}: {counts.macro_top1_pct(head):.2f}%\n{text_table(lines)}"


def write_confusion(path: Path, confusion: NDArray[np.int64], titles: Sequence[str]) -> None:
    """Write how often which class (rows) was taken for which (columns), (K, K)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        save_png(_drawn(confusion, titles), path, mark=COMMAND)
        return
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow([CORNER, *titles])
        for title, row in zip(titles, confusion.tolist(), strict=True):
            table.writerow([title, *row])
        text.detach()


@house_style({"axes.grid": False})
def _drawn(confusion: NDArray[np.int64], titles: Sequence[str]) -> Figure:
    """The matrix as a picture: colours are shares of each row, that is, of the true class."""
    from matplotlib.colors import PowerNorm

    num = len(titles)
    has_counts = num <= MOST_WITH_COUNTS
    cell, font = (0.4, 8) if has_counts else (0.11, 5.5)
    side = max(2.4, cell * num)
    # The longest name takes some of either side.
    room = 0.011 * font * max(len(cut(title)) for title in titles) + 0.6
    figure = new_figure(side + room + 0.9, side + room + 0.4)
    axes = figure.add_subplot()
    total = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    share = 100 * confusion / total
    # Rare confusions would be white on white.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    labels = [cut(title) for title in titles]
    axes.set_xticks(range(num), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(num), labels, fontsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Images by class and prediction" if has_counts else "Predictions by class")
    if has_counts:
        for (row, column), count in np.ndenumerate(confusion):
            colour = "white" if share[row, column] > 30 else "black"
            word = f"{count:,}" if count else ""
            axes.text(column, row, word, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, shrink=min(1.0, 3 / side), label="% of the true class")
    return figure
