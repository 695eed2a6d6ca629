"""All benchmarks in one run, in sizes that fit into a given time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fastdeit.benchmarks.augment import PAPER, bench_augment
from fastdeit.benchmarks.ceilings import all_precisions, bench_ceilings, decode_case
from fastdeit.benchmarks.commands.models import Wanted, measure_recipes
from fastdeit.benchmarks.convert import bench_convert, convert
from fastdeit.benchmarks.inference.architectures import table5_architectures
from fastdeit.benchmarks.inference.figure1 import plot_figure1
from fastdeit.benchmarks.inference.measure import Protocol, Sizes, bench_inference
from fastdeit.benchmarks.loaders import bench_loaders, engines_for
from fastdeit.benchmarks.photographs import make_imagefolder, photograph
from fastdeit.benchmarks.rows import Row
from fastdeit.benchmarks.run import BenchRun
from fastdeit.benchmarks.step import Files
from fastdeit.device import Compute
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import is_installed
from fastdeit.progress import say

NUM_CLASSES = 16
MIN_PHOTOGRAPHS, MAX_PHOTOGRAPHS = 512, 16_384
IMAGE_SIZE, BATCH_SIZE = 224, 64
ALL_ROUNDS = 5
BRIEF_PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "cpu": ("fp32",),
    "cuda": ("fp32", "tf32", "bf16"),
}
"""Of Table 5 in a limit of time: compiling takes longer than all else."""
SHARES = {
    "photographs": 0.06,
    "ceilings": 0.05,
    "loaders": 0.17,
    "augment": 0.10,
    "train": 0.38,
    "convert": 0.07,
    "table5": 0.17,
}
"""Of the time, in their order; what one does not use is the others'."""
RESERVE = 0.05
"""Of the time, for charts, the report, and rounds that take longer than the one before."""
DATA_CALLS = 2
"""How often `bench_loaders` and `bench_convert` measure."""
COST_OF_LOADERS = 25
"""A round of all loaders on one core takes about as long as so many bare decodes an image."""


@dataclass(slots=True)
class Clock:
    """Gives each part its share of what is left of the time."""

    limit_s: float | None
    """The whole time; None sets no limit."""
    begun: float = field(default_factory=lambda: time.perf_counter() - process_age_s())
    """When it began: with the process, whose imports count."""
    _left: dict[str, float] = field(default_factory=lambda: dict(SHARES))

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.begun

    def share_s(self, part: str) -> float | None:
        """Seconds for a part, which is then over for this clock."""
        weight = self._left.pop(part)
        if self.limit_s is None:
            return None
        left_s = (1 - RESERVE) * self.limit_s - self.elapsed_s
        return max(0.0, left_s) * weight / (weight + sum(self._left.values()))


def process_age_s() -> float:
    """How long this process has been running, as Linux says."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, float(Path("/proc/uptime").read_text().split()[0]) - started_s)


@dataclass(frozen=True, slots=True)
class Data:
    """What loaders, steps and conversion read."""

    beton: Path
    """Of our engines."""
    source: Path | None
    """ImageFolder of the same images, for the others."""


class Suite:
    """One run of everything."""

    def __init__(self, run: BenchRun, compute: Compute, threads: int, clock: Clock) -> None:
        """Measure nothing yet.

        Args:
            run: takes the rows.
            compute: where models run.
            threads: of each loader.
            clock: the time.
        """
        self.run, self.compute, self.threads, self.clock = run, compute, threads, clock

    def measure(self, data: Path | None, source: Path | None) -> None:
        """Measure everything.

        Args:
            data: a dataset; None makes pictures, which are removed again.
            source: ImageFolder of the same images.
        """
        for engine, name in (("ffcv", "FFCV"), ("dali", "DALI")):
            if not is_installed(engine):
                self.run.leave_out(name, "it is not installed")
        with TemporaryDirectory(prefix="fastdeit-bench-") as place:
            share_s = self.clock.share_s("photographs")
            if data is None:
                made = self.make_data(Path(place), share_s)
            else:
                open_dataset(data)  # so that what is wrong with it is said at once
                made = Data(data, source)
                if source is not None:
                    list_imagefolder(source)
                else:
                    self.run.leave_out("DeiT's and DALI's own loaders, conversion", "no --source")
            self.part("ceilings", self.ceilings)
            self.part("loaders", lambda seconds: self.loaders(made, seconds))
            self.part("augment", self.augment)
            self.part("train", lambda seconds: self.train(made, seconds))
            if made.source is not None:
                folder = made.source
                self.part("convert", lambda seconds: self.convert(folder, seconds))
            self.part("table5", self.table5)

    def part(self, name: str, work: Callable[[float | None], None]) -> None:
        """Do a part in its share of the time; what goes wrong in it does not stop the others."""
        seconds = self.clock.share_s(name)
        with self.run.part(name):
            work(seconds)

    # ---- the parts -----------------------------------------------------------------------------
    def make_data(self, place: Path, seconds: float | None) -> Data:
        """Draw as many pictures as the time allows, and convert them."""
        begun = time.perf_counter()
        photograph(0).save(place / "one.jpg")
        (place / "one.jpg").unlink()
        each_s = (time.perf_counter() - begun) / self.threads
        num = 2048 if seconds is None else int(seconds / each_s)
        num = min(MAX_PHOTOGRAPHS, max(MIN_PHOTOGRAPHS, num // 256 * 256))
        folder, beton = place / "photographs", place / "photographs.beton"
        make_imagefolder(folder, num, NUM_CLASSES, self.threads)
        convert(folder, beton, self.threads, ())
        say(f"{num} pictures of 500 pixels, quality 90, made and converted")
        return Data(beton, folder)

    def ceilings(self, seconds: float | None) -> None:
        """What the machine can do."""
        computes = all_precisions(self.compute)
        calls = len(computes) + 3
        effort = self.run.effort(ALL_ROUNDS, None if seconds is None else seconds / calls)
        self.run.add(bench_ceilings(computes, effort))

    def loaders(self, data: Data, seconds: float | None) -> None:
        """Every loader, on one core and on all."""
        num_images = 1024
        if seconds is not None:
            decode_s = 1 / decode_case().time()
            affordable = seconds / (2 * 4 * COST_OF_LOADERS * decode_s)
            num_images = int(max(2, min(16, affordable // BATCH_SIZE))) * BATCH_SIZE
        effort = self.run.effort(ALL_ROUNDS, None if seconds is None else 0.4 * seconds)
        for rows in bench_loaders(
            data.beton, data.source, IMAGE_SIZE, BATCH_SIZE, self.threads, num_images, effort
        ):
            self.run.add(rows)

    def augment(self, seconds: float | None) -> None:
        """Each operation, policies and the whole stage."""
        batch = BATCH_SIZE if self.compute.device.type == "cpu" else 256
        effort = self.run.effort(ALL_ROUNDS, None if seconds is None else seconds / 22)
        self.run.add(bench_augment(batch, IMAGE_SIZE, self.compute.device, effort))

    def train(self, data: Data, seconds: float | None) -> None:
        """The step and training from files."""
        engines = tuple(engines_for(open_dataset(data.beton)))
        if self.compute.device.type == "cuda" or seconds is not None:
            engines = engines[:1]  # the fastest: the loaders have rows of their own
        files = Files(data.beton, engines, data.source)
        wanted = Wanted(threads=self.threads)
        # Models are built and compiled, and one round is not timed.
        rounds_s = None if seconds is None else 0.5 * seconds
        measure_recipes(self.run, wanted, self.compute, files, ALL_ROUNDS, rounds_s)

    def convert(self, source: Path, seconds: float | None) -> None:
        """Conversion, of fewer images if time is short."""
        effort = self.run.effort(ALL_ROUNDS, None if seconds is None else seconds / DATA_CALLS)
        if seconds is None:
            self.run.add(bench_convert(source, self.threads, effort))
            return
        with fewer_images(source, int(20 * seconds)) as few:
            self.run.add(bench_convert(few, self.threads, effort))

    def table5(self, seconds: float | None) -> None:
        """Inference; with a limit of time the paper's own models first, none of them compiled."""
        device, is_brief = self.compute.device, seconds is not None
        left_out = bench_inference(
            self.run,
            "table5",
            table5_architectures(),
            BRIEF_PROTOCOLS[device.type] if is_brief else (),
            device,
            Sizes.of(device, quick=is_brief),
            seconds,
        )
        if left_out:
            self.run.leave_out(f"{len(left_out)} rows of Table 5", "no time was left")
        if self.run.out is not None:
            plot_figure1(self.run.rows, self.run.out / "figure1.png")


@contextmanager
def fewer_images(source: Path, num_images: int) -> Iterator[Path]:
    """An ImageFolder of some of another's images, spread over its classes; removed at the end.

    Args:
        source: the other; the new one lies beside it, with hard links.
        num_images: how many; at least one of each class.
    """
    classes = sorted(folder for folder in source.iterdir() if folder.is_dir())
    each = max(1, num_images // max(1, len(classes)))
    with TemporaryDirectory(prefix="fastdeit-bench-", dir=source.parent) as place:
        for folder in classes:
            (Path(place) / folder.name).mkdir()
            for file in sorted(folder.iterdir())[:each]:
                (Path(place) / folder.name / file.name).hardlink_to(file)
        yield Path(place)


def is_main(row: Row) -> bool:
    """Whether a row belongs into a short table."""
    family, name = row.family, row.name
    if family in ("ceilings", "step"):
        return True
    if family == "table5":
        return name.startswith("DeiT")
    if family == "loaders":
        return "3 copies" in name or "own" in name or "bare" in name
    if family == "augment":
        return "whole stage" in name or PAPER in name
    if family == "end-to-end":
        return "from files" in name
    return family == "convert" and "beton" in name
