"""`fastdeit analyse disagreement`: Table 4, of any checkpoints and heads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastdeit.paper.heads import GROUND_TRUTH, HEADS, TABLE4_MODELS, table4_part, table4_rate
from fastdeit.text.plots import house_style, new_figure, shorten
from fastdeit.text.tables import text_table
from fastdeit.tools.evaluate.analyse.results import check_out, finish, need_one
from fastdeit.tools.evaluate.analyse.voters import Voter, open_voters
from fastdeit.tools.evaluate.validation import DEFAULT_PASS, PassOptions, Reader, joined_reader

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fastdeit.pipelines.datasets.index import DatasetIndex

Checkpoints = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="CHECKPOINT[:HEAD] [CHECKPOINT[:HEAD] ...]", help_behavior_hint="(required)"
    ),
]


def disagreement(
    checkpoints: Checkpoints = (),
    *,
    data: Path,
    out: Path | None = None,
    weights: Literal["raw", "ema"] = "raw",
    image_size: int | None = None,
    reading: PassOptions = DEFAULT_PASS,
) -> int:
    """Show on which fraction of images two decide differently: checkpoints, heads, ground truth.

    Table 4 of the paper; its values stand in brackets where the parts are the same. All models of
    one resolution look at the images in one pass. Several GPUs: as `fastdeit evaluate`.

    Args:
        checkpoints: RUN/checkpoint.pt for all heads of a model, or RUN/checkpoint.pt:class, :dist
            or :joint for one of them.
        data: the validation set: a .beton, a folder of shards or an ImageFolder.
        out: folder for disagreement.json and a heat map, disagreement.png.
        weights: raw, as trained, or ema, their moving average.
        image_size: side of the images in pixels for all models; unless given each one's own.
        reading: how images are read and models computed.

    Returns:
        0.
    """
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.tools.evaluate.analyse.measures import disagreement as rates

    need_one(checkpoints, "CHECKPOINT", "RUN/checkpoint.pt")
    check_out(out)
    with joined_reader(reading, image_size) as reader:
        index = open_dataset(data)
        voters = open_voters(checkpoints, index, weights, image_size)
        decisions = _decisions(voters, index, reader)
    if not reader.world.is_main:
        return 0
    was_seen = (decisions >= 0).all(axis=0)  # all but images that do not decode
    titles = ["ground truth", *(each.title(head) for each in voters for head in each.heads)]
    parts: list[tuple[str | None, str]] = [
        (GROUND_TRUTH, ""),
        *((table4_part(each.timm, head), each.name) for each in voters for head in each.heads),
    ]
    matrix = rates(decisions[:, was_seen]).tolist()
    papers = [[papers_rate(*one, *other) for other in parts] for one in parts]
    print(_matrix_table(titles, matrix, papers), file=sys.stderr)
    has_papers = any(value is not None for row in papers for value in row)
    if has_papers:
        print(f"in brackets: Table 4 of the paper, {TABLE4_MODELS}", file=sys.stderr)
    facts: dict[str, Any] = {
        "analysis": "disagreement",
        "dataset": str(data),
        "num_images": int(was_seen.sum()),
        "weights": weights,
        "eval_crop_ratio": reading.eval_crop_ratio,
        "compute": reader.compute.reason,
        "checkpoints": {
            each.name: {
                "path": str(each.path),
                "model": each.timm,
                "image_size": each.image_size,
                "heads": each.heads,
            }
            for each in voters
        },
        "order": titles,
        "rate": matrix,
        "paper_parts": [part for part, _ in parts],
        "paper_rate": papers,
    }
    note = f"in brackets: the paper's, {TABLE4_MODELS}" if has_papers else ""
    what = f"{facts['num_images']:,} images of {data.resolve().name}"
    finish("disagreement", facts, out, lambda: _heat_map(titles, matrix, papers, what, note))
    return 0


def papers_rate(one: str | None, model: str, other: str | None, other_model: str) -> float | None:
    """Table 4's rate for two parts; its heads of a distilled model are those of one model."""
    if one in HEADS.values() and other in HEADS.values() and model != other_model:
        return None
    return table4_rate(one, other)


def _decisions(voters: list[Voter], index: DatasetIndex, reader: Reader) -> NDArray[np.int64]:
    """(1 + heads that are wanted, images): the labels, then what each head decides; -1 for none."""
    import numpy as np

    from fastdeit.models import head_names
    from fastdeit.tools.evaluate.analyse.measures import decide

    rows: dict[tuple[str, str], NDArray[np.int32]] = {}
    for size in dict.fromkeys(each.image_size for each in voters):
        together = [each for each in voters if each.image_size == size]
        models = [each.model.to(reader.compute.device) for each in together]
        with reader.one_pass(index, size, f"deciding at {size} px") as (shown, _):
            found = iter(decide(models, shown, reader.compute, index.keys, reader.world))
        for each in together:
            rows |= {(each.name, head): next(found) for head in head_names(each.model)}
            each.model.cpu()
    wanted = [rows[each.name, head] for each in voters for head in each.heads]
    return np.stack([index.labels, *wanted])


def _matrix_table(
    titles: list[str], matrix: list[list[float]], papers: list[list[float | None]]
) -> str:
    """The matrix for a terminal, the paper's values in brackets; columns go by number."""
    lines = [["", *(str(number + 1) for number in range(len(titles)))]]
    for number, title in enumerate(titles):
        cells = [
            f"{value:.3f}" + ("" if paper is None else f" ({paper:.3f})")
            for value, paper in zip(matrix[number], papers[number], strict=True)
        ]
        lines.append([f"{number + 1} {title}", *cells])
    return text_table(lines)


@house_style({"axes.grid": False})
def _heat_map(
    titles: list[str],
    matrix: list[list[float]],
    papers: list[list[float | None]],
    what: str,
    below: str,
) -> Figure:
    """Draw who disagrees with whom how often, with the values in the cells."""
    side, names = len(titles), [shorten(title) for title in titles]
    cell = 0.85 if any(value is not None for row in papers for value in row) else 0.65
    room = 0.075 * max(map(len, names)) + 0.5
    width, height = cell * side + room + 1.1, 0.55 * side + 0.75 * room + 1.0
    figure = new_figure(max(6.0, width), max(3.4, height))
    axes = figure.subplots()
    highest = max(max(row) for row in matrix) or 1.0
    image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for down, row in enumerate(matrix):
        for across, value in enumerate(row):
            if down != across:
                paper = papers[down][across]
                text = f"{value:.3f}" + ("" if paper is None else f"\n({paper:.3f})")
                color = "white" if value > 0.55 * highest else "#1a1a1a"
                middle: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.25}
                axes.text(across, down, text, fontsize=8.5, color=color, **middle)
    words: dict[str, Any] = {"fontsize": 9, "parse_math": False}
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(side), names, **turned, **words)
    axes.set_yticks(range(side), names, **words)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("fraction of images decided differently", fontsize=9)
    bar.outline.set_visible(False)
    text = f"Disagreement over {what}" + (f"\n{below}" if below else "")
    figure.suptitle(text, fontsize=10, x=0.01, ha="left")
    return figure
