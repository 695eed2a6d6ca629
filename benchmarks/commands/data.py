"""`fastdeit bench loaders`, `footprint`, `augment`, `convert`, `scale`: before the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.commands.shared import (
    BATCH_SIZE,
    IMAGE_SIZE,
    require_at_least,
    require_peers,
)


def ceilings(device: str = "auto", rounds: int = 5, out: Path | None = None) -> int:
    """Measure what the machine can do: matrix products, memory, the way to the GPU, JPEG decoding.

    Args:
        device: where products and copies run: auto, cpu, cuda or cuda:N.
        rounds: timed rounds of each.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, rounds=rounds)
    options = {"device": device, "precision": "auto", "rounds": rounds}
    return measure_one("ceilings", "ceilings:measure_ceilings", options, out, device)


def measure_one(
    name: str, work: str, options: dict[str, Any], out: Path | None, device: str = "cpu"
) -> int:
    """Measure one part, and end."""
    from fastdeit.benchmarks.harness.isolated import Part
    from fastdeit.benchmarks.harness.run import BenchRun

    with BenchRun(out, device) as run:
        run.measure(Part(name=name, work=f"fastdeit.benchmarks.cases.{work}", options=options))
        return run.end()


def loaders(
    data: Path,
    source: Path | None = None,
    image_size: int = IMAGE_SIZE,
    batch_size: int = BATCH_SIZE,
    num_images: int = 1024,
    threads: int = 0,
    rounds: int = 5,
    peers: bool = True,
    out: Path | None = None,
) -> int:
    """Measure every engine beside FFCV's, DALI's and DeiT's own loaders, on one core and on all.

    Args:
        data: dataset for our engines and FFCV's loader, best a .beton.
        source: ImageFolder of the same images, for DALI's and DeiT's own pipelines; they are left
            out without it.
        image_size: side of the crops in pixels.
        batch_size: samples a step.
        num_images: a round is an epoch over so many images for each core.
        threads: threads or workers of each loader; 0 takes every usable core.
        rounds: timed rounds of each.
        peers: whether others' loaders are measured.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, rounds=rounds, batch_size=batch_size, num_images=num_images)
    require_at_least(0, threads=threads)
    require_at_least(16, image_size=image_size)
    if batch_size > num_images:
        raise UserError(
            f"batch_size must be at most num_images ({num_images}). Found: {batch_size}. "
            "Pass a smaller --batch-size or a larger --num-images."
        )
    require_peers(peers, source)
    from fastdeit.benchmarks.cases.loaders import loader_parts
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.machine.threads import num_usable_cores
    from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
    from fastdeit.pipelines.datasets.index import open_dataset

    # So that what is wrong with them is said at once.
    open_dataset(data)
    if source is not None:
        list_imagefolder(source)
    cores = threads or num_usable_cores()
    parts = loader_parts(data, source, image_size, batch_size, cores, num_images, rounds, peers)
    with BenchRun(out) as run:
        for part in parts:
            run.measure(part)
        return run.end()


def footprint(
    data: Path, image_size: int = IMAGE_SIZE, threads: int = 0, out: Path | None = None
) -> int:
    """Measure the memory of a rank of each loader, and its overhead of a batch.

    Args:
        data: dataset, best a .beton.
        image_size: side of the crops in pixels.
        threads: threads or workers of each loader; 0 takes every usable core.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(0, threads=threads)
    require_at_least(16, image_size=image_size)
    from fastdeit.benchmarks.cases.footprint import footprint_parts
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.machine.threads import num_usable_cores

    parts = footprint_parts(data, image_size, threads or num_usable_cores())
    with BenchRun(out) as run:
        for part in parts:
            run.measure(part)
        return run.end()


def augment(
    image_size: int = IMAGE_SIZE,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    rounds: int = 5,
    peers: bool = True,
    out: Path | None = None,
) -> int:
    """Measure each operation, policies and the whole augmentation beside timm's on PIL.

    timm's runs on one core; ours on one core too, or on a GPU.

    Args:
        image_size: side of the images in pixels.
        batch_size: images of a round.
        device: where ours runs: auto, cpu, cuda or cuda:N.
        rounds: timed rounds of each.
        peers: whether timm's is measured.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, rounds=rounds, batch_size=batch_size)
    require_at_least(16, image_size=image_size)
    options = {
        "num_images": batch_size,
        "image_size": image_size,
        "device": device,
        "rounds": rounds,
        "has_peers": peers,
    }
    return measure_one("augment", "augment:measure_augment", options, out, device)


def convert(
    source: Path,
    threads: int = 0,
    rounds: int = 5,
    peers: bool = True,
    out: Path | None = None,
) -> int:
    """Measure conversion beside FFCV's own writer and a bare copy of the files.

    Args:
        source: an ImageFolder.
        threads: worker processes of each; 0 takes every usable core.
        rounds: timed rounds of each.
        peers: whether FFCV's writer is measured.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, rounds=rounds)
    require_at_least(0, threads=threads)
    from fastdeit.machine.threads import num_usable_cores
    from fastdeit.pipelines.datasets.imagefolder import list_imagefolder

    list_imagefolder(source)  # so that what is wrong with it is said at once
    options = {
        "source": source,
        "threads": threads or num_usable_cores(),
        "rounds": rounds,
        "has_peers": peers,
    }
    return measure_one("convert", "convert:measure_convert", options, out)


def scale(num_images: int = 1_281_167, out: Path | None = None) -> int:
    """Convert as many tiny images as ImageNet has, in the temporary folder: time and memory.

    Args:
        num_images: how many.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, num_images=num_images)
    from tempfile import gettempdir

    options = {"folder": Path(gettempdir()), "num_images": num_images}
    return measure_one("scale", "scale:measure_scale", options, out)
