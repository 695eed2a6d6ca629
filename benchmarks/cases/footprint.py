"""What a loader costs beside its time: memory of a rank, and the host's own work for a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fastdeit.benchmarks.cases.loaders import engines_for, epoch_of
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.record import Record
from fastdeit.measured.rows import Row
from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.index import RAW_MODE, open_dataset
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import Engine, open_pipeline
from fastdeit.pipelines.plan.order import Plan

MEMORY_BATCH = 256
OVERHEAD_BATCH = 1024
TINY_IMAGES = 8 * OVERHEAD_BATCH


def footprint_parts(data: Path, image_size: int, threads: int) -> list[Part]:
    """Parts that measure memory and overhead of each engine.

    For each engine the peak of its own memory in MB at 256 samples a batch (the page cache not
    counted), and for the threaded ones what a batch of 1,024 costs in ms on one core if there is
    next to nothing to decode.

    Args:
        data: what our engines read, preferably a .beton.
        image_size: side of the crops.
        threads: threads of each loader.
    """
    engines = engines_for(open_dataset(data))
    sizes = {"data": data, "image_size": image_size, "threads": threads}
    parts = [
        Part(
            name=f"memory of a rank, {engine}",
            work=f"{__name__}:measure_memory",
            options={"engine": engine, **sizes},
            cores=threads,
        )
        for engine in engines
    ]
    return parts + [
        Part(
            name=f"overhead, {engine}",
            work=f"{__name__}:measure_overhead",
            options={"engine": engine},
            cores=1,
        )
        for engine in engines
        if engine != "pil"  # whose work is in other processes
    ]


def measure_memory(
    record: Record, engine: Engine, data: Path, image_size: int, threads: int
) -> None:
    """The peak of this process's own memory, and of its workers', over one epoch."""
    index = open_dataset(data)
    batch_size = min(MEMORY_BATCH, len(index))
    plan = Plan(
        keys=index.keys,
        batch_size=batch_size,
        image_size=image_size,
        is_training=True,
        repeats=3,
    )
    options = PipelineOptions(threads=threads)
    with peak_memory() as peak, open_pipeline(index, plan, engine, options) as batches:
        epoch_of(batches)()
    record.on_round()
    note = "anonymous memory of all its processes, the imports of a training program included"
    peak_mb, name = peak[0] / 1e6, f"fastdeit {engine}, batch {batch_size}"
    row = Row(
        case="memory of a rank",
        name=name,
        unit="MB",
        n=1,
        median=peak_mb,
        p20=peak_mb,
        p80=peak_mb,
        note=note,
    )
    record.add([row])


def measure_overhead(record: Record, engine: Engine) -> None:
    """Milliseconds for a batch of images of 2 x 2 pixels, cut to 16 x 16."""
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
        plan = Plan(
            keys=keys,
            batch_size=OVERHEAD_BATCH,
            image_size=16,
            is_training=True,
            repeats=3,
        )
        with open_pipeline(index, plan, engine, PipelineOptions(threads=1)) as batches:
            list(batches)
            took = []
            for _ in range(5):
                started = time.perf_counter()
                count = len(list(batches))
                took.append((time.perf_counter() - started) / count * 1e3)
                record.on_round()
    note = "next to nothing to decode: what is left is mostly Python's share; one core"
    took.sort()
    row = Row(
        case="overhead",
        name=f"fastdeit {engine}, batch {OVERHEAD_BATCH} of tiny images",
        unit="ms",
        n=len(took),
        median=took[2],
        p20=took[1],
        p80=took[3],
        note=note,
    )
    record.add([row])


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The highest anonymous memory of this process and its children inside the block, in bytes."""
    highest = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            highest[0] = max(highest[0], sum(map(anonymous_memory, family())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def family() -> list[str]:
    """The process ids of this process and all that descend from it."""
    found, waiting = [], ["self"]
    while waiting:
        process = waiting.pop()
        found.append(process)
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                waiting += (task / "children").read_text().split()
        except OSError:  # it ended
            continue
    return found


def anonymous_memory(process: str) -> int:
    """Memory of a process that is no file's, in bytes; 0 if it ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    kilobytes = [
        line.split()[1] for line in text.splitlines() if line.startswith(("RssAnon", "RssShmem"))
    ]
    return 1024 * sum(map(int, kilobytes))
