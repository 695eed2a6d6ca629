"""`fastdeit predict`: what a checkpoint sees in images."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastdeit.errors import require
from fastdeit.text.progress import progress, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastdeit.machine.device import Compute
    from fastdeit.pipelines.datasets.index import DatasetIndex
    from fastdeit.pipelines.plan.order import Plan, StepPlan

Guesses = list[tuple[int, float]]
"""Class numbers with their probabilities, the likeliest first."""
CSV_HEAD = ("file", "rank", "number", "class", "probability")


def predict(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE")],
    /,
    top_k: int = 5,
    format: Literal["table", "csv", "json"] = "table",
    weights: Literal["raw", "ema"] = "raw",
    eval_crop_ratio: float = 0.875,
    batch_size: int = 64,
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto",
) -> int:
    """Classify image files, and all in folders: `fastdeit predict CHECKPOINT IMAGE_OR_FOLDER...`.

    Images are decoded, resized and cropped as in `fastdeit evaluate`; both heads decide together
    where there are two. A file that does not decode is one line on stderr and the exit code 1. In
    folders the endings count (.jpg, .jpeg, .png, .ppm, .pgm, .bmp, .tif, .tiff, .webp); a file of
    another ending is read when it is named.

    Args:
        checkpoint: of `fastdeit train` or `fastdeit import`.
        images: files and folders.
        top_k: how many classes an image gets.
        format: a table to read, CSV with a line a class, or JSON with a line an image.
        weights: raw, as trained, or ema, their moving average.
        eval_crop_ratio: the shorter side becomes the model's size divided by this.
        batch_size: images a step.
        device: auto, cpu, cuda or cuda:N.
        precision: as in `fastdeit evaluate`.

    Returns:
        0, or 1 if a file did not decode.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        require(
            value >= 1,
            name,
            value,
            "must be at least 1",
            f"Leave --{name.replace('_', '-')} out.",
        )
    require(
        0 < eval_crop_ratio <= 1,
        "eval_crop_ratio",
        eval_crop_ratio,
        "must be above 0 and at most 1",
        "Pass --eval-crop-ratio 0.875, say.",
    )
    require(
        bool(images), "IMAGE", "none", "must be a file or a folder", "Give one or more of them."
    )
    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.machine.device import choose_compute
    from fastdeit.pipelines.datasets.files import find_images, open_files
    from fastdeit.pipelines.open import eval_plan

    compute = choose_compute(device, precision)
    content = load_checkpoint(checkpoint)
    files = find_images(images)
    index, bad = open_files(files)
    for file, reason in bad.items():
        say(f"{file}: does not decode ({reason})")
    writer = Writer(format, content["class_names"])
    num_bad = len(bad)
    if index is not None:
        model = model_from_checkpoint(content, weights).to(compute.device)
        size = min(batch_size, len(index))
        plan = eval_plan(index, content["image_size"], eval_crop_ratio, size)
        with progress(None, "predicting", len(files), first=num_bad) as bar:
            for file, found in guesses(model, index, plan, compute, top_k):
                if isinstance(found, str):
                    num_bad += 1
                    say(f"{file}: does not decode ({found})")
                else:
                    writer.write(file, found)
                bar.update()
    if num_bad:
        say(f"{num_bad} of {len(files)} files did not decode")
    return 1 if num_bad else 0


def guesses(
    model: nn.Module, index: DatasetIndex, plan: Plan, compute: Compute, top_k: int
) -> Iterator[tuple[Path, Guesses | str]]:
    """Classify the images of an index by a model in evaluation mode, on the device.

    Yields each file in order, with its guesses, `top_k` or all, or why it does not decode.
    """
    import numpy as np
    import torch

    from fastdeit.augment import normalise
    from fastdeit.machine.threads import num_rank_cores
    from fastdeit.models import forward_heads, head_names

    head = "joint" if "joint" in head_names(model) else "class"
    with ThreadPoolExecutor(num_rank_cores()) as pool:
        for step in plan.steps(0):
            decoded = _decode_step(index, plan, step, pool)
            pixels = [image for image in decoded if not isinstance(image, str)]
            rows: list[Guesses] = []
            if pixels:
                batch = torch.from_numpy(np.stack(pixels)).to(compute.device)
                with torch.no_grad(), compute.autocast():
                    probs = forward_heads(model, normalise(batch))[head]
                top = probs.topk(min(top_k, probs.shape[1]), dim=1)
                rows = [
                    list(zip(numbers, values, strict=True))
                    for numbers, values in zip(
                        top.indices.tolist(), top.values.tolist(), strict=True
                    )
                ]
            following = iter(rows)
            for sample, image in zip(step.samples, decoded, strict=True):
                yield index.files[sample], image if isinstance(image, str) else next(following)


def _decode_step(
    index: DatasetIndex, plan: Plan, step: StepPlan, pool: ThreadPoolExecutor
) -> list[NDArray[np.uint8] | str]:
    """Decode and crop the images of a step, as the PIL engine does."""
    from fastdeit import UserError
    from fastdeit.pipelines.engines.decode import BadImageError, decode_with_pil
    from fastdeit.pipelines.engines.pil_engine import resample_with_pil
    from fastdeit.pipelines.plan.crops import crop_rule, plan_cuts

    radius = crop_rule(plan).radius

    def decode(sample: int, cut: NDArray[np.int32]) -> NDArray[np.uint8] | str:
        try:
            image = decode_with_pil(index, sample)
        except BadImageError as error:
            return error.reason
        except (OSError, UserError) as error:  # it went away or was cut since it was measured
            return str(error)
        return resample_with_pil(image, cut, plan.image_size, radius)

    return list(pool.map(decode, map(int, step.samples), plan_cuts(plan, index, step)))


class Writer:
    """Prints guesses on stdout."""

    def __init__(self, format: str, class_names: list[str]) -> None:
        """Print the head of a CSV, which there is even without images."""
        self.format, self.class_names = format, class_names
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        if format == "csv":
            self._csv.writerow(CSV_HEAD)

    def write(self, file: Path, found: Guesses) -> None:
        """Print what was seen in one file."""
        # Names in bytes that are no UTF-8 could not be printed.
        name = os.fsencode(file).decode("utf-8", "replace")
        if self.format == "json":
            rows: list[dict[str, Any]] = [
                {"number": number, "class": self.class_names[number], "probability": prob}
                for number, prob in found
            ]
            print(json.dumps({"file": name, "guesses": rows}, ensure_ascii=False))
        elif self.format == "csv":
            for rank, (number, prob) in enumerate(found, 1):
                self._csv.writerow((name, rank, number, self.class_names[number], f"{prob:.6f}"))
        else:
            print(name)
            for number, prob in found:
                print(f"  {100 * prob:6.2f}%  {self.class_names[number]}")
