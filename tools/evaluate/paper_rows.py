"""What stands beside an evaluation: which set it was, and the paper's rows of the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fastdeit.checkpoints.classes import WORDNET_ID, numbered_classes
from fastdeit.config.data import Dataset
from fastdeit.errors import UserError
from fastdeit.measured.run import SHAPE
from fastdeit.paper.published import Published, Training, published
from fastdeit.paper.transfer import IN_TABLE_6, dataset_row
from fastdeit.text.tables import figure, text_table

if TYPE_CHECKING:
    from fastdeit.pipelines.datasets.index import DatasetIndex
    from fastdeit.training.evaluate import Evaluation

NUM_CLASSES = 1000
VAL_IMAGES, V2_IMAGES = 50_000, 10_000
TITLES: dict[Any, str] = {**IN_TABLE_6, "v2": "ImageNet-V2", "none": ""}


@dataclass(frozen=True, slots=True)
class Which:
    """Which of the paper's columns a set belongs to."""

    name: Dataset | Literal["v2", "none"]
    """The validation or test set of a dataset that the paper reports, ImageNet-V2, or neither."""
    reason: str
    """Why, for the user."""


def which_set(
    index: DatasetIndex,
    asked: Literal["auto", "imagenet", "v2", "none"],
    trained_on: Dataset = "imagenet",
) -> Which:
    """Tell ImageNet's validation set and ImageNet-V2 from each other and from other sets.

    Args:
        index: the set.
        asked: auto looks at its classes and how many images it has.
        trained_on: for a model of another dataset, auto looks for the test set of that.

    Raises:
        UserError: the paper's columns are of 1,000 classes, and the set has others.
    """
    classes = index.class_ids
    if asked == "none":
        return Which("none", "as asked")
    if asked == "auto" and trained_on != "imagenet":
        row = dataset_row(trained_on)
        if (len(classes), len(index)) == (row.classes, row.test):
            return Which(trained_on, f"the model's dataset, and {row.test:,} images")
        counts = f"{row.test:,} images of {row.classes:,} classes"
        return Which("none", f"it is not the test set of {row.name}, {counts}")
    if len(classes) != NUM_CLASSES:
        if asked != "auto":
            raise UserError(
                f"paper must be none for a set without ImageNet's {NUM_CLASSES:,} classes. "
                f"Found: {asked}, and {len(classes)} classes in {index.path}. Leave --paper out."
            )
        return Which("none", f"it has {len(classes)} classes, ImageNet {NUM_CLASSES:,}")
    if asked != "auto":
        return Which(asked, "as asked")
    if len(index) == VAL_IMAGES:
        return Which("imagenet", f"it has {VAL_IMAGES:,} images")
    if len(index) == V2_IMAGES:
        return Which("v2", f"it has {V2_IMAGES:,} images")
    if classes == numbered_classes(NUM_CLASSES) == index.class_names:
        return Which("v2", f"its classes are numbered folders; {len(index):,} images")
    if all(map(WORDNET_ID.fullmatch, classes)):
        return Which("imagenet", f"its classes are ImageNet's; {len(index):,} images")
    return Which("none", "its classes have neither WordNet ids nor numbers")


def training_of(content: dict[str, Any]) -> Training:
    """How the model of a checkpoint was trained; of an imported one nothing is known."""
    config = content.get("config")
    if config is None:
        return Training()
    return Training(
        dataset=config["data"].get("dataset", "imagenet"),
        is_finetuned=config["init_from"] is not None,
        distillation=config["distill"]["distillation"],
        teacher=content.get("teacher_model"),
    )


def model_facts(content: dict[str, Any]) -> dict[str, Any]:
    """`model`, timm's name, and `model_options`, how its shape differs from timm's, if it does."""
    config = content["model_config"]
    options = {name: config[name] for name in SHAPE if config.get(name) is not None}
    return {"model": config["model"], **({"model_options": options} if options else {})}


def papers_rows(
    facts: dict[str, Any], training: Training, image_size: int, which: Which
) -> list[Published]:
    """The paper's rows of a model at a size in pixels that have a figure for a set."""
    if which.name == "none" or "model_options" in facts:
        return []
    rows = published(facts["model"], image_size, training)
    return [row for row in rows if _top1_of(row, which) is not None]


def _top1_of(row: Published, which: Which) -> float | None:
    """A row's figure for a set."""
    return row.v2_top1_pct if which.name == "v2" else row.top1_pct


def paper_facts(rows: list[Published], which: Which) -> list[dict[str, Any]]:
    """The same for JSON; `set` says of which set the figure is."""
    facts = []
    for row in rows:
        fact: dict[str, Any] = {"name": row.name, "table": row.table, "head": row.head}
        fact |= {"set": which.name, "top1_pct": _top1_of(row, which)}
        if row.real_top1_pct is not None and which.name == "imagenet":
            fact["real_top1_pct"] = row.real_top1_pct
        facts.append(fact)
    return facts


def evaluation_table(
    evaluations: dict[str, Evaluation], rows: list[Published], which: Which
) -> str:
    """Heads and weights (raw or ema) as rows, the paper's below each head."""
    scores = [score for each in evaluations.values() for score in each.heads.values()]
    has_real = any(score.real_top1_pct is not None for score in scores)
    title = " ".join(filter(None, (TITLES[which.name], "top-1 %")))
    lines = [["head", "of", title, *["ReaL top-1 %"] * has_real, "top-5 %", "loss"]]
    for head in next(iter(evaluations.values())).heads:
        for weights, evaluation in evaluations.items():
            score = evaluation.heads[head]
            real = [figure(score.real_top1_pct, ".2f")] * has_real
            cells = [f"{score.top1_pct:.2f}", *real, f"{score.top5_pct:.2f}", f"{score.loss:.4f}"]
            lines.append([head, f"{weights} weights", *cells])
        for row in (each for each in rows if each.head == head):
            known = row.real_top1_pct if which.name == "imagenet" else None
            cells = [figure(_top1_of(row, which), ".1f"), *([figure(known, ".1f")] * has_real)]
            lines.append([head, f"{row.table}: {row.name}", *cells, "", ""])
    return text_table(lines, "llr")


def explain(facts: dict[str, Any], image_size: int, rows: list[Published], which: Which) -> str:
    """One line on what the table compares with."""
    if which.name == "none":
        return f"no figures of the paper stand beside it: {which.reason}"
    is_what = f"taken for {TITLES[which.name]} ({which.reason})"
    if rows:
        return f"{is_what}; tables: of the paper, arXiv:2012.12877"
    options = facts.get("model_options")
    differs = f" with {', '.join(f'{k} {v}' for k, v in options.items())}" if options else ""
    return f"{is_what}; the paper has no {facts['model']}{differs} at {image_size} pixels"
