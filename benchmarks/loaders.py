"""Loaders side by side on the same images: ours through each engine, and their peers.

All deliver random-resized crops of one size as uint8; the peers in their own way: FFCV's own
decoder (area interpolation, the fast DCT), and DeiT's transform by timm in a torch DataLoader.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdeit.batch import Batch
from fastdeit.benchmarks.harness import Case, Row, measure, with_bound
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.decode import decode_with_pil
from fastdeit.pipelines.open import Engine, is_installed, open_pipeline
from fastdeit.pipelines.pipeline import PipelineOptions
from fastdeit.pipelines.plan import Plan

BASELINE = "DeiT's own (timm transform, torch DataLoader)"
DECODE = "bare decode by PIL"
DECODE_IMAGES = 200
COPIES = {1: "", 3: ", 3 copies of each image"}


def bench_loaders(
    index: DatasetIndex,
    source: Path | None,
    image_size: int,
    batch_size: int,
    threads: int,
    rounds: int,
    num_images: int,
    on_round: Callable[[], None],
) -> list[Row]:
    """Measure every loader that is installed.

    Args:
        index: what our engines read, preferably a .beton.
        source: ImageFolder of the same images for DeiT's own pipeline; None leaves it out.
        image_size: side of the crops.
        batch_size: samples a step.
        threads: threads or workers of each loader.
        rounds: timed rounds of each.
        num_images: a round is one whole epoch over the first so many images.
        on_round: for a progress bar.

    Returns:
        A row a loader. Its bound is what PIL decodes on one core, times the cores, times the
        copies that a decode serves.
    """
    num_images = min(num_images, len(index))
    torch_threads = torch.get_num_threads()
    with ExitStack() as stack:
        cases = []
        if source is not None:
            loader = deit_loader(source, num_images, image_size, batch_size, threads)
            note = "with RandAugment and erasing, which fastdeit does or will do on the device"
            cases.append(Case(name=BASELINE, run=epoch_of(loader), note=note))
        if index.container == "beton" and is_installed("ffcv"):
            loader = ffcv_own_loader(index, num_images, image_size, batch_size, threads)
            cases.append(
                Case(
                    name="FFCV's own decoder",
                    run=epoch_of(loader),
                    note="area interpolation and fast DCT: other pixels than the paper's loader",
                )
            )
        for engine in engines_for(index):
            for copies in (1, 3):
                plan = Plan(
                    keys=index.keys[:num_images],
                    batch_size=batch_size,
                    image_size=image_size,
                    is_training=True,
                    repeats=copies,
                )
                opened = stack.enter_context(
                    open_pipeline(index, plan, engine, PipelineOptions(threads=threads))
                )
                name = f"fastdeit {engine}{COPIES[copies]}"
                cases.append(Case(name=name, run=epoch_of(opened)))
        decode = Case(name=f"{DECODE}, one core", run=lambda: decode_some(index, num_images))
        *rows, decoded = measure(
            "loaders",
            "img/s",
            [*cases, decode],
            rounds,
            BASELINE if source is not None else None,
            on_round,
        )
    torch.set_num_threads(torch_threads)  # FFCV as its users run it changes it
    bounded = []
    for row in rows:
        copies = 3 if row.name.endswith(COPIES[3]) else 1
        what = f"{DECODE}, {threads} cores{COPIES[copies]}"
        bounded.append(with_bound(row, decoded.median * threads * copies, what))
    return [*bounded, replace(decoded, baseline=None, ratio=None)]


def engines_for(index: DatasetIndex) -> list[Engine]:
    """Our engines that are installed and read the container."""
    engines: list[Engine] = []
    if index.container == "beton" and is_installed("ffcv"):
        engines.append("ffcv")
    if is_installed("dali"):
        engines.append("dali")
    engines.append("pil")
    return engines


def epoch_of(batches: Any) -> Callable[[], int]:
    """A round: one whole pass. It begins with nothing prefetched and leaves nothing half done."""

    def run() -> int:
        count = 0
        for batch in batches:
            images = batch.images_nhwc_u8 if isinstance(batch, Batch) else batch[0]
            count += len(images)
        return count

    return run


def decode_some(index: DatasetIndex, num_images: int) -> int:
    """Decode images spread over the first `num_images`, one after another."""
    numbers = np.linspace(0, num_images - 1, min(DECODE_IMAGES, num_images)).astype(int)
    for sample in numbers:
        decode_with_pil(index, int(sample))
    return len(numbers)


def deit_loader(
    source: Path, num_images: int, image_size: int, batch_size: int, threads: int
) -> Any:
    """DeiT's own pipeline: ImageFolder, timm's training transform with RandAugment, workers.

    Source: deit datasets.py:build_transform and main.py with the defaults of Table 9.
    """
    from timm.data import create_transform
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder

    transform = create_transform(
        input_size=image_size,
        is_training=True,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    folder = ImageFolder(str(source), transform=transform)
    # Spread over the classes, since a folder is sorted by them.
    numbers = np.linspace(0, len(folder) - 1, min(num_images, len(folder))).astype(int)
    return DataLoader(
        Subset(folder, numbers.tolist()),
        batch_size=batch_size,
        shuffle=True,
        num_workers=threads,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )


def ffcv_own_loader(
    index: DatasetIndex, num_images: int, image_size: int, batch_size: int, threads: int
) -> Any:
    """FFCV as its users run it: its own random-resized-crop decoder and labels."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    return Loader(
        str(index.path),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        indices=np.arange(num_images),
        order=OrderOption.RANDOM,
        seed=0,
        drop_last=True,
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((image_size, image_size)), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
