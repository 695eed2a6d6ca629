"""`fastdeit analyse tokens`: how alike class and distillation token are, layer by layer."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdeit.errors import UserError
from fastdeit.machine.launch import local_rank
from fastdeit.paper.heads import token_cosines as papers_cosines
from fastdeit.text.tables import figure, text_table
from fastdeit.tools.evaluate.analyse.plots import cosine_plot
from fastdeit.tools.evaluate.analyse.results import check_out, finish
from fastdeit.tools.evaluate.analyse.voters import short_names
from fastdeit.tools.evaluate.validation import (
    TIMEOUT_MINUTES,
    PassOptions,
    check_image_size,
    one_pass,
)

DEFAULT_PASS = PassOptions()


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
    from fastdeit.machine.device import choose_compute
    from fastdeit.machine.distributed import joined
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.tools.evaluate.analyse.measures import token_cosines

    check_image_size(image_size)
    check_out(out)
    compute = choose_compute(reading.device, reading.precision, local_rank())
    with joined(compute, TIMEOUT_MINUTES) as world, world.explain_loss("Start it again."):
        content = load_checkpoint(checkpoint)
        model = model_from_checkpoint(content, weights, image_size).to(compute.device)
        timm_name = content["model_config"]["model"]
        if not isinstance(model, VisionTransformerDistilled):
            raise UserError(
                "checkpoint must be of a model with a distillation token. "
                f"Found: {timm_name}, in {checkpoint}. Give a distilled student's."
            )
        index = open_dataset(data)
        size = image_size or content["image_size"]
        with one_pass(index, size, reading, compute, world, "comparing") as (shown, _):
            found = token_cosines(model, shown, compute, world)
    if not world.is_main:
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
        "compute": compute.reason,
        **asdict(found),
        "last": found.last,
        "paper": asdict(paper),
    }
    (name,) = short_names([checkpoint])
    finish("tokens", facts, out, lambda: cosine_plot(name, found, paper))
    return 0
