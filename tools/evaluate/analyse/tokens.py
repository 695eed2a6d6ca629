"""`fastdeit analyse tokens`: how alike class and distillation token are, layer by layer."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastdeit.errors import UserError
from fastdeit.paper.heads import TokenCosines
from fastdeit.paper.heads import token_cosines as papers_cosines
from fastdeit.text.plots import COLORS, GREY, house_style, new_figure, shorten
from fastdeit.text.tables import figure, text_table
from fastdeit.tools.evaluate.analyse.results import check_out, finish
from fastdeit.tools.evaluate.analyse.voters import short_names
from fastdeit.tools.evaluate.validation import DEFAULT_PASS, PassOptions, joined_reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastdeit.tools.evaluate.analyse.measures import Cosines


def tokens(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    /,
    data: Path,
    out: Path | None = None,
    weights: Literal["raw", "ema"] = "raw",
    image_size: int | None = None,
    reading: PassOptions = DEFAULT_PASS,
) -> int:
    """Show the cosine between class and distillation token: learned, and after each block.

    In the paper (section 4) it goes from 0.06 for the learned tokens to 0.93 at the last layer.
    The mean is over all images of DATA. Several GPUs: as `fastdeit evaluate`.

    Args:
        checkpoint: RUN/checkpoint.pt of a model with a distillation token.
        data: the validation set: a .beton, a folder of shards or an ImageFolder; labels and
            classes do not matter.
        out: folder for tokens.json and a plot, tokens.png.
        weights: raw, as trained, or ema, their moving average.
        image_size: side of the images in pixels; unless given the checkpoint's.
        reading: how images are read and models computed.

    Returns:
        0.
    """
    from timm.models.deit import VisionTransformerDistilled

    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.tools.evaluate.analyse.measures import token_cosines

    check_out(out)
    with joined_reader(reading, image_size) as reader:
        content = load_checkpoint(checkpoint)
        model = model_from_checkpoint(content, weights, image_size).to(reader.compute.device)
        timm_name = content["model_config"]["model"]
        if not isinstance(model, VisionTransformerDistilled):
            raise UserError(
                "checkpoint must be of a model with a distillation token. "
                f"Found: {timm_name}, in {checkpoint}. Give a distilled student's."
            )
        index = open_dataset(data)
        size = image_size or content["image_size"]
        with reader.one_pass(index, size, "comparing") as (shown, _):
            found = token_cosines(model, shown, reader.compute, reader.world)
    if not reader.world.is_main:
        return 0
    paper = papers_cosines()
    lines = [["where", "cosine", "deviation", "paper"]]
    lines.append(["learned tokens", f"{found.learned:.3f}", "", f"{paper.learned:.2f}"])
    for place, mean, deviation in zip(found.names, found.means, found.deviations, strict=True):
        is_last = place == found.names[-2]
        lines.append(
            [place, f"{mean:.3f}", f"{deviation:.3f}", figure(paper.last, ".2f") if is_last else ""]
        )
    print(text_table(lines), file=sys.stderr)
    print(
        f"over {found.num_images:,} images; input: with position embeddings; norm: after the final "
        "normalisation; paper: section 4, DeiT-B on ImageNet",
        file=sys.stderr,
    )
    facts = {
        "analysis": "tokens",
        "checkpoint": str(checkpoint),
        "model": timm_name,
        "dataset": str(data),
        "image_size": size,
        "eval_crop_ratio": reading.eval_crop_ratio,
        "weights": weights,
        "compute": reader.compute.reason,
        **asdict(found),
        "last": found.last,
        "paper": asdict(paper),
    }
    (name,) = short_names([checkpoint])
    finish("tokens", facts, out, lambda: _plot(name, found, paper))
    return 0


@house_style()
def _plot(name: str, found: Cosines, paper: TokenCosines) -> Figure:
    """Draw the cosine of the two tokens, layer by layer, beside the paper's two values."""
    figure = new_figure(max(6.4, 0.42 * len(found.names) + 2.2), 4.2)
    axes = figure.subplots()
    places = [*range(1, len(found.names) + 1)]
    both = [*zip(found.means, found.deviations, strict=True)]
    low, high = [mean - each for mean, each in both], [mean + each for mean, each in both]
    ours, learned = COLORS[:2]
    axes.fill_between(places, low, high, color=ours, alpha=0.18, linewidth=0)
    label = "embeddings: mean over the images, and a standard deviation"
    axes.plot(places, found.means, color=ours, marker="o", markersize=4, label=label)
    axes.plot([0], [found.learned], "D", color=learned, label="learned tokens")
    papers = [0, places[-2]], [paper.learned, paper.last]
    label = f"paper, DeiT-B: {paper.learned:.2f} learned, {paper.last:.2f} last layer"
    axes.scatter(*papers, color=GREY, marker="x", s=45, linewidths=1.8, zorder=3, label=label)
    names = ["learned", *(each.removeprefix("block ") for each in found.names)]
    axes.set_xticks([0, *places], names, fontsize=9)
    axes.set_xlabel(
        "after block (input: with position embeddings; norm: after the final normalisation)"
    )
    axes.set_ylabel("cosine of class and distillation token")
    axes.set_ylim(min(0.0, *low, found.learned) - 0.05, 1.05)
    axes.set_title(f"{shorten(name)}: {found.num_images:,} images")
    axes.legend(loc="best")
    return figure
