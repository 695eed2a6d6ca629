"""`fastdeit bench loaders`: ours through each engine, and their peers, on the same images.

All deliver random-resized crops of one size as uint8 or as the tensors of their own way: FFCV's
own decoder (area interpolation, the fast DCT), DALI's own operators, and DeiT's transform by timm
in a torch DataLoader. Everything is measured on one core and on all of them, each time in a fresh
process that is bound to those cores, in which the cases take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import (
    BATCH_SIZE,
    IMAGE_SIZE,
    Data,
    ImageSize,
    Numbers,
    Out,
    Peers,
    Rounds,
    Source,
    Threads,
    require_peers,
)
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import MIN_ROUNDS, Case, measure
from fastdeit.benchmarks.harness.run import measure_parts
from fastdeit.benchmarks.peers.loaders import dali_own_epoch, deit_loader, ffcv_own_loader, spread
from fastdeit.errors import require
from fastdeit.machine.threads import num_usable_cores
from fastdeit.measured.rows import with_bound
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset

if TYPE_CHECKING:
    from fastdeit.pipelines.engines.pipeline import Pipeline
    from fastdeit.pipelines.open import Engine

DEIT = "DeiT's own (timm transform, torch DataLoader)"
DEIT_PLAIN = "DeiT's own without RandAugment and erasing"
FFCV = "FFCV's own (area interpolation, fast DCT)"
DALI = "DALI's own on the CPU"
DECODE_IMAGES = 200
COST_OF_LOADERS = 25
"""A round of all loaders on one core takes about as long as so many bare decodes an image."""
COPIES = {1: "", 3: ", 3 copies"}
PEERS = (FFCV, DALI, DEIT)
"""What the ratios are to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions(Numbers):
    """What `loaders` may be asked for."""

    data: Data
    source: Source = None
    image_size: ImageSize = IMAGE_SIZE
    batch_size: int = BATCH_SIZE
    """samples a step."""
    num_images: int = 1024
    """a round is an epoch over so many images for each core."""
    threads: Threads = 0
    rounds: Rounds = 5
    peers: Peers = True
    out: Out = None

    @property
    def parts(self) -> list[Part]:
        """On one core, and on as many as there are threads."""
        return [
            Part(
                name=f"loaders, {_cores_of(cores)}",
                work=f"{__name__}:measure_loaders",
                options={"asked": replace(self, threads=cores)},
                cores=cores,
            )
            for cores in sorted({1, self.threads or num_usable_cores()})
        ]


def loaders(asked: Annotated[LoaderOptions, tyro.conf.arg(name="")]) -> int:
    """Measure every engine beside FFCV's, DALI's and DeiT's own loaders, on one core and on all."""
    require(
        asked.batch_size <= asked.num_images,
        "batch_size",
        asked.batch_size,
        f"must be at most num_images ({asked.num_images})",
        "Pass a smaller --batch-size or a larger --num-images.",
    )
    require_peers(asked.peers, asked.source)
    check_data(asked.data, asked.source)
    return measure_parts(asked.parts, asked.out)


def check_data(data: Path | None, source: Path | None) -> None:
    """Say at once what is wrong with a dataset or an ImageFolder, if they were given."""
    if data is not None:
        open_dataset(data)
    if source is not None:
        list_imagefolder(source)


def _cores_of(number: int) -> str:
    """A number of cores in words."""
    return f"{number} core" + "s" * (number > 1)


def measure_loaders(record: Record, asked: LoaderOptions) -> None:
    """Measure every loader that is installed, in a process that is bound to `threads` cores.

    A row a loader; a round is one whole epoch. Its bound is what a core decodes, times the cores,
    times the copies that a decode serves. With a limit of time a round has as many images as that
    allows.
    """
    from fastdeit.pipelines.open import is_installed

    index, threads = open_dataset(asked.data), asked.threads
    num_images = asked.num_images
    if record.left_s is not None:
        num_images = _affordable_images(record.left_s, asked.batch_size)
    num_images = min(num_images * threads, len(index))
    source = asked.source if asked.peers else None
    sizes = (num_images, asked.image_size, asked.batch_size, threads)
    cases: list[Case] = []

    def add_peer(name: str, run: Callable[[], int], note: str | None = None) -> None:
        cases.append(Case(name=name, run=run, note=note, may_fail=True))

    with ExitStack() as stack:
        if source is not None:
            if is_installed("dali"):
                note = "other crops and other pixels: DALI's cubic and its random numbers"
                add_peer(DALI, dali_own_epoch(source, *sizes), note)
            note = "RandAugment and erasing included, which fastdeit does on the device"
            add_peer(DEIT, epoch_of(deit_loader(source, *sizes, with_augmentation=True)), note)
            plain = deit_loader(source, *sizes, with_augmentation=False)
            add_peer(DEIT_PLAIN, epoch_of(plain))
        if asked.peers and index.container == "beton" and is_installed("ffcv"):
            note = "area interpolation and fast DCT: other pixels than the paper's loader"
            add_peer(FFCV, epoch_of(ffcv_own_loader(index, *sizes)), note)
        for engine in engines_for(index):
            for copies in COPIES:
                opened = open_epochs(index, *sizes, engine, copies)
                stack.enter_context(opened)
                cases.append(Case(name=f"fastdeit {engine}{COPIES[copies]}", run=epoch_of(opened)))
        decode, what = _bare_decode(index, num_images)
        cores = _cores_of(threads)
        *rows, decoded = measure(
            f"loaders, {cores}",
            "img/s",
            [*cases, Case(name=f"{what}, one core", run=decode)],
            record.effort(asked.rounds),
            [name for name in PEERS if name in [case.name for case in cases]],
        )
    bounded = []
    for row in rows:
        copies = next(number for number in (3, 1) if row.name.endswith(COPIES[number]))
        of = f"{what}, {cores}{COPIES[copies]}"
        bounded.append(with_bound(row, decoded.median * threads * copies, of))
    record.add([*bounded, decoded])


def _affordable_images(seconds: float, batch_size: int) -> int:
    """How many images a core decodes in a round, so that all rounds take so many seconds."""
    from fastdeit.benchmarks.cases.ceiling_rates import decode_case

    decode_s = 1 / decode_case().time()
    # An untimed round and the least of timed ones, and as long again for what is slower.
    affordable = seconds / ((MIN_ROUNDS + 2) * COST_OF_LOADERS * decode_s)
    return int(max(2, min(16, affordable // batch_size))) * batch_size


def engines_for(index: DatasetIndex) -> list[Engine]:
    """Our engines that are installed and read the container."""
    from fastdeit.pipelines.open import is_installed

    engines: list[Engine] = []
    if index.container == "beton" and is_installed("ffcv"):
        engines.append("ffcv")
    if is_installed("dali"):
        engines.append("dali")
    engines.append("pil")
    return engines


def open_epochs(
    index: DatasetIndex,
    num_images: int,
    image_size: int,
    batch_size: int,
    threads: int,
    engine: Engine,
    copies: int = 3,
) -> Pipeline:
    """The first images of a dataset through an engine of ours; the caller closes it."""
    from fastdeit.pipelines.engines.pipeline import PipelineOptions
    from fastdeit.pipelines.open import open_pipeline
    from fastdeit.pipelines.plan.order import Plan

    plan = Plan(
        keys=index.keys[:num_images],
        batch_size=batch_size,
        image_size=image_size,
        is_training=True,
        repeats=copies,
    )
    return open_pipeline(index, plan, engine, PipelineOptions(threads=threads))


def epoch_of(batches: Any) -> Callable[[], int]:
    """A round: one whole pass. It begins with nothing prefetched and leaves nothing half done."""
    from fastdeit.batch import Batch

    def run() -> int:
        count = 0
        for batch in batches:
            images = batch.images_nhwc_u8 if isinstance(batch, Batch) else batch[0]
            count += len(images)
        return count

    return run


def _bare_decode(index: DatasetIndex, num_images: int) -> tuple[Callable[[], int], str]:
    """Decode images spread over the first `num_images`, one after another, and do nothing else."""
    from fastdeit.pipelines.engines.decode import decode_with_pil
    from fastdeit.pipelines.open import is_installed

    numbers = spread(num_images, DECODE_IMAGES)
    if not is_installed("ffcv"):

        def by_pil() -> int:
            for sample in numbers:
                decode_with_pil(index, sample)
            return len(numbers)

        return by_pil, "bare decode by PIL"

    from fastdeit.pipelines.engines.ffcv_library import (
        ACCURATE_DCT,
        RGB,
        decompress,
        new_decompressor,
    )

    files = [index.read(sample) for sample in numbers]
    sizes = [(int(index.widths[sample]), int(index.heights[sample])) for sample in numbers]
    room = np.empty(max(width * height for width, height in sizes) * 3, dtype=np.uint8)
    handle = new_decompressor()

    def by_libjpeg() -> int:
        at = room.ctypes.data  # here, so that the room lives as long as this function
        for data, (width, height) in zip(files, sizes, strict=True):
            decompress(handle, data, len(data), at, width, 0, height, RGB, ACCURATE_DCT)
        return len(numbers)

    return by_libjpeg, "bare decode by libjpeg-turbo"
