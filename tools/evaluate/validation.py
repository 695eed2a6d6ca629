"""One pass over a validation set: the options of the commands that make one, and the opening."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastdeit.checkpoints.classes import describe_difference, locate, read_classes
from fastdeit.errors import UserError, require
from fastdeit.machine.launch import is_first_process, local_rank
from fastdeit.text.progress import progress

if TYPE_CHECKING:
    from fastdeit.batch import Batch
    from fastdeit.checkpoints.classes import Located
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


def locate_set(
    index: DatasetIndex, content: dict[str, Any], checkpoint: Path, may_be_part: bool | None = None
) -> Located:
    """Find the classes of a set among those of a checkpoint; what is not plain is said.

    Folders that are only numbered, as in ImageNet-V2, are taken for the classes in their order; so
    are the classes of a model that was imported without names.

    Args:
        index: the set.
        content: from `load_checkpoint`.
        checkpoint: where it is, for messages.
        may_be_part: whether the model may have others beside; None where no option allows it.

    Raises:
        UserError: the set has others.
    """
    wanted, known = index.classes, read_classes(content)
    located = locate(wanted, known, bool(may_be_part))
    if located is not None:
        note = located.explain(str(checkpoint))
        if note and is_first_process():
            print(f"note: {index.path}: {note}", file=sys.stderr)
        return located
    rule = f"dataset must have the {len(known)} classes of the checkpoint"
    way_out = "Give a set of the same source."
    if may_be_part:
        rule = "with classes subset, dataset must have only classes that the checkpoint names too"
    elif may_be_part is not None and locate(wanted, known, True) is not None:
        way_out = "Pass --classes subset to choose among the set's classes only."
    sides = (str(index.path), str(checkpoint))
    difference = describe_difference(wanted, known, sides, bool(may_be_part))
    raise UserError(f"{rule}. Found: {difference}. {way_out}")
