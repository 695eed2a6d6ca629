"""`fastdeit bench footprint`: memory of a rank, and the host's own work for a batch."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from fastdeit.benchmarks.cases.loaders import engines_for, epoch_of, open_epochs
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.memory import PRIVATE, peak_memory
from fastdeit.benchmarks.harness.options import (
    IMAGE_SIZE,
    Data,
    ImageSize,
    Out,
    Threads,
    require_at_least,
)
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import row_of_values
from fastdeit.benchmarks.harness.run import measure_parts
from fastdeit.machine.threads import num_usable_cores
from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.index import RAW_MODE, open_dataset

if TYPE_CHECKING:
    from fastdeit.pipelines.open import Engine

MEMORY_BATCH = 256
OVERHEAD_BATCH = 1024
TINY_IMAGES = 8 * OVERHEAD_BATCH
PASSES = 5
WATCH_S = 0.01


def footprint(
    data: Data, image_size: ImageSize = IMAGE_SIZE, threads: Threads = 0, out: Out = None
) -> int:
    """Measure the memory of a rank of each loader, and its overhead of a batch."""
    require_at_least(0, threads=threads)
    require_at_least(16, image_size=image_size)
    cores, engines = threads or num_usable_cores(), engines_for(open_dataset(data))
    parts = [
        Part(
            name=f"memory of a rank, {engine}",
            work=f"{__name__}:measure_memory",
            options={"engine": engine, "data": data, "image_size": image_size, "threads": cores},
            cores=cores,
        )
        for engine in engines
    ]
    parts += [
        Part(
            name=f"overhead, {engine}",
            work=f"{__name__}:measure_overhead",
            options={"engine": engine},
            cores=1,
        )
        for engine in engines
        if engine != "pil"  # whose work is in other processes
    ]
    return measure_parts(parts, out)


def measure_memory(
    record: Record, engine: Engine, data: Path, image_size: int, threads: int
) -> None:
    """The peak of this process's own memory, and of its workers', over one epoch, in MB.

    The page cache, which all processes share, is not counted.
    """
    import_module("fastdeit.models")  # as a training program does
    index = open_dataset(data)
    batch_size = min(MEMORY_BATCH, len(index))
    with (
        peak_memory(os.getpid(), PRIVATE, WATCH_S) as peak,
        open_epochs(index, len(index), image_size, batch_size, threads, engine) as batches,
    ):
        epoch_of(batches)()
    record.on_round()
    note = "anonymous memory of all its processes, the imports of a training program included"
    name = f"fastdeit {engine}, batch {batch_size}"
    row = row_of_values("memory of a rank", name, "MB", [peak.num_bytes / 1e6])
    record.add([replace(row, note=note)])


def measure_overhead(record: Record, engine: Engine) -> None:
    """Milliseconds for a batch of images of 2 x 2 pixels, cut to 16 x 16, on one core."""
    with TemporaryDirectory() as folder:
        writer = BetonWriter(Path(folder), TINY_IMAGES, 12)
        for _ in range(TINY_IMAGES):
            writer.add(0, bytes(12), 0, RAW_MODE)
        keys = np.arange(TINY_IMAGES, dtype=np.uint64)
        sides = np.full(TINY_IMAGES, 2, dtype=np.int32)
        columns = {
            "modes": np.full(TINY_IMAGES, RAW_MODE, dtype=np.uint8),
            "labels": np.zeros(TINY_IMAGES, dtype=np.int64),
            "widths": sides,
            "heights": sides,
            "keys": keys,
        }
        index = open_dataset(writer.finish({}, columns))
        with open_epochs(index, TINY_IMAGES, 16, OVERHEAD_BATCH, 1, engine) as batches:
            list(batches)
            took = []
            for _ in range(PASSES):
                started = time.perf_counter()
                count = len(list(batches))
                took.append((time.perf_counter() - started) / count * 1e3)
                record.on_round()
    note = "next to nothing to decode: what is left is mostly Python's share; one core"
    name = f"fastdeit {engine}, batch {OVERHEAD_BATCH} of tiny images"
    record.add([replace(row_of_values("overhead", name, "ms", took), note=note)])
