"""One pass over a validation set: the options of the commands that make one, and the opening."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastdeit.checkpoints.classes import knows_classes, numbered_classes
from fastdeit.errors import UserError, require
from fastdeit.machine.launch import is_first_process, local_rank
from fastdeit.text.progress import progress

if TYPE_CHECKING:
    from fastdeit.batch import Batch
    from fastdeit.machine.device import Compute
    from fastdeit.machine.distributed import World
    from fastdeit.pipelines.datasets.index import DatasetIndex
    from fastdeit.pipelines.engines.pipeline import Pipeline

TIMEOUT_MINUTES = 10.0
"""How long a process waits for the others, as in training unless told otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassOptions:
    """How images are read and models computed."""

    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto"
    """What decodes; auto takes the fastest that is installed."""
    batch_size: int = 256
    """Images a step of each process."""
    eval_crop_ratio: float = 0.875
    """The shorter side becomes the model's size divided by this; 0.875 is DeiT's at every
    resolution (Table 10)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """As in `fastdeit train`; auto is bf16 on a GPU (fp16 before Ampere) and fp32 on a CPU."""
    threads: int = 0
    """Decoding threads of each process; 0 takes its share of the usable cores."""
    bad_images: Literal["stop", "skip"] = "stop"
    """Stop at an image that does not decode, or count its neighbour in its place."""

    def __post_init__(self) -> None:
        size, ratio = self.batch_size, self.eval_crop_ratio
        require(size >= 1, "batch_size", size, "must be at least 1", "Pass 256, say.")
        rule, way_out = "must be above 0 and at most 1", "Pass --eval-crop-ratio 0.875, say."
        require(0 < ratio <= 1, "eval_crop_ratio", ratio, rule, way_out)


DEFAULT_PASS = PassOptions()


@dataclass(frozen=True, slots=True)
class Reader:
    """What looks at validation sets: this process on its device, among the others."""

    options: PassOptions
    compute: Compute
    world: World

    @contextmanager
    def one_pass(
        self, index: DatasetIndex, image_size: int, what: str
    ) -> Iterator[tuple[Iterable[Batch], Pipeline]]:
        """This process's part of a set as images of so many pixels; all see each image once.

        Yields:
            (the batches, with a bar that says `what`; the pipeline they come from).
        """
        from fastdeit.pipelines.engines.pipeline import PipelineOptions
        from fastdeit.pipelines.open import eval_plan, open_pipeline

        options, world = self.options, self.world
        plan = eval_plan(
            index,
            image_size,
            options.eval_crop_ratio,
            min(options.batch_size * world.size, len(index)),
            rank=world.rank,
            world_size=world.size,
        )
        opened = PipelineOptions(
            threads=options.threads, device=self.compute.device, bad_images=options.bad_images
        )
        with open_pipeline(index, plan, options.engine, opened) as batches:
            shown = progress(batches, what, len(batches), unit="batch", is_shown=world.is_main)
            yield shown, batches


@contextmanager
def joined_reader(options: PassOptions, image_size: int | None) -> Iterator[Reader]:
    """A context in which all processes of a job look at validation sets.

    Raises:
        UserError: the size in pixels that was asked for is 0 or less, or the device is not there.
    """
    from fastdeit.machine.device import choose_compute
    from fastdeit.machine.distributed import joined

    is_size = image_size is None or image_size > 0
    require(is_size, "image_size", image_size, "must be above 0", "Pass --image-size 224, say.")
    compute = choose_compute(options.device, options.precision, local_rank())
    with joined(compute, TIMEOUT_MINUTES) as world, world.explain_loss("Start it again."):
        yield Reader(options, compute, world)


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
    if found == numbered_classes(len(class_names)):
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
