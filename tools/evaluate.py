"""`fastdeit evaluate`: accuracy of a checkpoint, head by head."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastdeit import UserError
from fastdeit.checkpoints.classes import knows_classes
from fastdeit.files import replace_file
from fastdeit.launch import is_first_process, local_rank
from fastdeit.tools.progress import progress

if TYPE_CHECKING:
    from fastdeit.pipelines.datasets.index import DatasetIndex

TIMEOUT_MINUTES = 10.0
"""How long a process waits for the others, as in training unless told otherwise."""


def evaluate(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")],
    /,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    batch_size: int = 256,
    eval_crop_ratio: float = 0.875,
    weights: Literal["raw", "ema"] = "raw",
    real: Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto",
    threads: int = 0,
    bad_images: Literal["stop", "skip"] = "stop",
) -> int:
    """Evaluate a checkpoint: top-1, top-5 and loss of the class, distillation and joint heads.

    The last line on stdout is one JSON object; it is written to evaluation.json beside the
    checkpoint too. Several GPUs: torchrun --nproc-per-node=8 --no-python fastdeit evaluate ...

    Args:
        checkpoint: RUN/checkpoint.pt of `fastdeit train`.
        dataset: a .beton, a folder of shards or an ImageFolder; every image counts once.
        engine: what decodes; auto takes the fastest that is installed.
        batch_size: images a step of each process.
        eval_crop_ratio: the shorter side becomes the model's size divided by this.
        weights: raw, as trained, or ema, their moving average.
        real: real.json of ImageNet-ReaL, for its top-1 too; DATASET is ImageNet's val then.
        device: auto, cpu, cuda or cuda:N.
        precision: as in `fastdeit train`; auto is bf16 autocast on a GPU and fp32 on a CPU.
        threads: decoding threads of each process; 0 takes its share of the usable cores.
        bad_images: stop at an image that does not decode, or count its neighbour in its place.

    Returns:
        0.
    """
    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.device import choose_compute
    from fastdeit.distributed import joined
    from fastdeit.evaluate import evaluate as score
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.datasets.real_labels import read_real_labels
    from fastdeit.pipelines.open import eval_plan, open_pipeline
    from fastdeit.pipelines.pipeline import PipelineOptions

    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1. Found: {batch_size}. Pass 256, say.")
    if not 0 < eval_crop_ratio <= 1:
        raise UserError(
            f"eval_crop_ratio must be above 0 and at most 1. Found: {eval_crop_ratio}. "
            "Pass --eval-crop-ratio 0.875, say."
        )
    compute = choose_compute(device, precision, local_rank())
    with joined(compute, TIMEOUT_MINUTES) as world, world.explain_loss("Start it again."):
        content = load_checkpoint(checkpoint)
        index = open_dataset(dataset)
        check_classes(tuple(content["class_names"]), index)
        right_labels = None if real is None else read_real_labels(real, index)
        model = model_from_checkpoint(content, weights).to(compute.device)
        image_size = content["image_size"]
        step_size = min(batch_size * world.size, len(index))
        plan = eval_plan(
            index, image_size, eval_crop_ratio, step_size, rank=world.rank, world_size=world.size
        )
        options = PipelineOptions(threads=threads, device=compute.device, bad_images=bad_images)
        with open_pipeline(index, plan, engine, options) as batches:
            shown = progress(
                batches, "evaluating", len(batches), unit="batch", is_shown=world.is_main
            )
            result = score(model, shown, compute, right_labels, world)
            replaced = batches.replacements.num_samples(world)
    if not world.is_main:
        return 0
    for name, head in result.heads.items():
        also = "" if head.real_top1_pct is None else f"  ReaL top-1 {head.real_top1_pct:6.2f}%"
        print(
            f"{name:>6}: top-1 {head.top1_pct:6.2f}%  top-5 {head.top5_pct:6.2f}%  "
            f"loss {head.loss:.4f}{also}",
            file=sys.stderr,
        )
    facts = {
        "checkpoint": str(checkpoint),
        "dataset": str(dataset),
        "image_size": image_size,
        "eval_crop_ratio": eval_crop_ratio,
        "weights": weights,
        "compute": compute.reason,
        **result.to_dict(),
    }
    if replaced:
        facts["images_replaced"] = replaced
    text = json.dumps(facts)
    print(text)
    replace_file(checkpoint.with_name("evaluation.json"), (text + "\n").encode())
    return 0


def check_classes(class_names: tuple[str, ...], index: DatasetIndex) -> None:
    """Make sure that a dataset has the classes that a model knows.

    Folders that are only numbered, as in ImageNet-V2, are taken for the classes in their order; so
    are the classes of a model that was imported without names, which is said.

    Raises:
        UserError: it has others.
    """
    found = index.class_names
    if knows_classes(class_names, found):
        if found != class_names and is_first_process():
            print(
                f"note: the {len(found)} classes of the model are numbered, and taken for those of "
                f"{index.path} in their order",
                file=sys.stderr,
            )
        return
    if found == tuple(map(str, range(len(class_names)))):
        return
    if len(found) != len(class_names):
        what = f"{len(found)} classes"
    else:
        number = next(n for n, name in enumerate(found) if name != class_names[n])
        what = f"class {number} is {found[number]}, not {class_names[number]}"
    raise UserError(
        f"dataset must have the {len(class_names)} classes of the checkpoint. Found: {what}, in "
        f"{index.path}. Give a set of the same source."
    )
