"""All benchmarks in one run: on a GPU the most telling first, in sizes that fit a given time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastdeit.benchmarks.cases.augment import PAPER
from fastdeit.benchmarks.cases.budgeted_plan import planned
from fastdeit.benchmarks.cases.convert import convert
from fastdeit.benchmarks.cases.inference.architectures import Architecture, table5_architectures
from fastdeit.benchmarks.cases.inference.measure import Protocol, Sizes, inference_part
from fastdeit.benchmarks.cases.loaders import engines_for, loader_parts
from fastdeit.benchmarks.cases.step import STEP, Files
from fastdeit.benchmarks.commands.models import Wanted, step_part
from fastdeit.benchmarks.commands.shared import BATCH_SIZE, IMAGE_SIZE
from fastdeit.benchmarks.harness.clock import Clock, Planned
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.photographs import make_imagefolder, photograph
from fastdeit.benchmarks.harness.record import Record, reason_of
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.errors import UserError
from fastdeit.measured.rows import Row
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import is_installed

NUM_CLASSES = 16
PHOTOGRAPHS = {"cpu": (512, 16_384), "cuda": (2048, 16_384)}
"""Fewest and most pictures that are drawn."""
FILES = {"cpu": 0, "cuda": 32_768}
"""So many files at least: each picture comes several times where drawing would take too long. An
epoch of a GPU is short, and its start counts."""
ALL_ROUNDS = 5
FIRST_STEP = ("deit-b", 512)
"""Recipe and batch that variants on a GPU stand beside."""


@dataclass(frozen=True, slots=True)
class Data:
    """What loaders, steps and conversion read."""

    beton: Path
    """Of our engines."""
    source: Path | None
    """ImageFolder of the same images, for the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a user wants of a run of everything."""

    device: str
    """Where models run, as it was asked for."""
    precision: str
    """Of our step, likewise."""
    threads: int
    """Of each loader."""
    only: tuple[str, ...] = ()
    """Topics; empty takes all."""
    skip: tuple[str, ...] = ()
    """Topics that are left out."""
    has_peers: bool = True
    """Whether others are measured beside ours."""
    data: Path | None = None
    """A dataset; None makes pictures, which are removed again."""
    source: Path | None = None
    """ImageFolder of the same images."""
    hands_over_code: bool = False
    """Whether compiled code is kept."""
    has_trace: bool = False
    """Whether a step is profiled."""

    def wants(self, topic: str) -> bool:
        """Whether a topic is measured."""
        return (not self.only or topic in self.only) and topic not in self.skip


class Suite:
    """One run of everything."""

    def __init__(self, run: BenchRun, asked: Asked, clock: Clock) -> None:
        """Measure nothing yet.

        Args:
            run: takes the rows.
            asked: what is wanted.
            clock: the time.
        """
        self.run, self.asked, self.clock = run, asked, clock
        self.kind = run.machine.kind
        self.data: Data | None = None

    def measure(self) -> None:
        """Measure what is planned, in turn."""
        for engine, name in (("ffcv", "FFCV"), ("dali", "DALI")):
            if not is_installed(engine):
                self.run.hear_left_out(name, "it is not installed")
        plan = [one for one in planned(self.kind, self) if self.asked.wants(one.topic)]
        if not plan:
            raise UserError(
                f"something must be left to measure. Found: {', '.join(self.asked.only)}, of which "
                f"there is nothing on this device ({self.kind}) with these options. Name others in "
                "--only."
            )
        with ExitStack() as stack:
            plan = self.with_data(plan, stack)
            for number, one in enumerate(plan):
                try:
                    self.do(one, plan[number + 1 :])
                except BaseException:
                    for later in plan[number + 1 :]:
                        self.run.hear_left_out(later.name, "the run was ended before")
                    raise

    def do(self, one: Planned, later: list[Planned]) -> None:
        """Do a part in its time; what goes wrong in it does not stop the others."""
        why_not = self.clock.why_not(one)
        if one.needs_data and self.data is None:
            why_not = "there are no photographs"
        if why_not is not None:
            self.run.hear_left_out(one.name, why_not)
            return
        share_s = self.clock.share_s(one, later)
        try:
            parts = one.parts(share_s)
        except Exception as error:  # of data that is gone or damaged, above all
            self.run.hear_failed(one.name, reason_of(error))
            return
        for part in parts:
            seconds = None if share_s is None else share_s / len(parts)
            result = self.run.measure(part, self.clock.limit_of(seconds), seconds)
            self.clock.learn(one, self.run.setup_s)
            if isinstance(result, Data):
                self.data = result

    # ---- photographs -----------------------------------------------------------------------------
    def with_data(self, plan: list[Planned], stack: ExitStack) -> list[Planned]:
        """The plan, with making photographs before the first part that needs them."""
        first = next((at for at, one in enumerate(plan) if one.needs_data), None)
        if first is None:
            return plan
        if self.asked.data is not None:
            self.data = Data(self.asked.data, self.asked.source)
            if self.asked.source is None:
                self.run.hear_left_out("DeiT's and DALI's own loaders, conversion", "no --source")
                return [one for one in plan if one.topic != "convert"]
            return plan
        place = Path(stack.enter_context(TemporaryDirectory(prefix="fastdeit-bench-")))

        def parts(seconds: float | None) -> list[Part]:
            del seconds
            options = {"place": place, "threads": self.asked.threads, "kind": self.kind}
            return [Part(name="photographs", work=f"{__name__}:make_data", options=options)]

        drawn = Planned(
            name="photographs",
            topic="photographs",
            least_s=20,
            most_s=40,
            weight=0.06,
            parts=parts,
        )
        return [*plan[:first], drawn, *plan[first:]]

    @property
    def engines(self) -> tuple[Any, ...]:
        """What training from files is measured through: in a hurry the fastest.

        The loaders have rows of their own.
        """
        assert self.data is not None
        engines = tuple(engines_for(open_dataset(self.data.beton)))
        return engines[:1] if self.clock.limit_s is not None or self.kind == "cuda" else engines

    def files(self, has_peers: bool) -> Files:
        """What steps from files read."""
        assert self.data is not None
        return Files(self.data.beton, self.engines, self.data.source if has_peers else None)

    # ---- the parts -------------------------------------------------------------------------------
    def ceilings(self, seconds: float | None) -> list[Part]:
        """What the machine can do."""
        del seconds
        asked = self.asked
        options = {"device": asked.device, "precision": asked.precision, "rounds": ALL_ROUNDS}
        work = "fastdeit.benchmarks.cases.ceilings:measure_ceilings"
        return [Part(name="ceilings", work=work, options=options)]

    def augment(self, batch_size: int, has_peers: bool, is_brief: bool) -> list[Part]:
        """Each operation, policies and the whole stage, or the last of them."""
        options = {
            "num_images": batch_size,
            "image_size": IMAGE_SIZE,
            "device": self.asked.device,
            "rounds": ALL_ROUNDS,
            "has_peers": has_peers,
            "is_brief": is_brief,
        }
        beside = ", beside timm's" if has_peers else ""
        return [
            Part(
                name=f"augment, batch {batch_size}{beside}",
                work="fastdeit.benchmarks.cases.augment:measure_augment",
                options=options,
            )
        ]

    def step(
        self,
        recipe: str,
        batch_size: int | None,
        has_peers: bool = False,
        has_files: bool = False,
        **changed: str,
    ) -> list[Part]:
        """The step of a recipe, and from files."""
        wanted = Wanted(threads=self.asked.threads)
        config = wanted.resolve(
            recipe,
            batch_size,
            device=self.asked.device,
            precision=self.asked.precision,
            **changed,
        )
        is_first = (recipe, batch_size) == FIRST_STEP and not has_files and not changed
        trace = f"trace_{recipe}-{config.data.batch_size}.json.gz"
        return [
            step_part(
                recipe,
                config,
                ALL_ROUNDS,
                files=self.files(has_peers) if has_files else None,
                has_peers=has_peers,
                # On a GPU the step by itself is a part of its own, but for others' loop.
                has_step_case=self.kind == "cpu" or has_peers or not has_files,
                beside=self.first_step() if not is_first and recipe == FIRST_STEP[0] else None,
                trace=self.run.out / trace if is_first and self.asked.has_trace else None,
                # From files it is the same code.
                hands_over_code=self.asked.hands_over_code and not has_files,
            )
        ]

    def first_step(self) -> tuple[str, Row] | None:
        """What variants stand beside, if it was measured."""
        case = "step: {}, batch {}".format(*FIRST_STEP)
        row = next((row for row in self.run.rows if (row.case, row.name) == (case, STEP)), None)
        return None if row is None else (f"{STEP}, batch {FIRST_STEP[1]}", row)

    def loaders(self, seconds: float | None) -> list[Part]:
        """Every loader, on one core and on all."""
        assert self.data is not None
        num_images = None if seconds is not None else 1024
        return loader_parts(
            self.data.beton,
            self.data.source,
            IMAGE_SIZE,
            BATCH_SIZE,
            self.asked.threads,
            num_images,
            ALL_ROUNDS,
            self.asked.has_peers,
        )

    def convert(self, seconds: float | None) -> list[Part]:
        """Conversion, of fewer images if time is short."""
        del seconds
        assert self.data is not None and self.data.source is not None
        options = {
            "source": self.data.source,
            "threads": self.asked.threads,
            "rounds": ALL_ROUNDS,
            "has_peers": self.asked.has_peers,
        }
        work = "fastdeit.benchmarks.cases.convert:measure_convert"
        return [Part(name="convert", work=work, options=options)]

    def table5(
        self, protocols: tuple[Protocol, ...], architectures: list[Architecture] | None = None
    ) -> Callable[[float | None], list[Part]]:
        """Inference; with a limit of time the paper's own models first."""

        def parts(seconds: float | None) -> list[Part]:
            has_limit = seconds is not None
            return [
                inference_part(
                    "table5",
                    architectures or table5_architectures(),
                    protocols,
                    self.asked.device,
                    Sizes.of(self.kind, quick=has_limit),
                    has_limit,
                    self.asked.hands_over_code,
                )
            ]

        return parts


def make_data(record: Record, place: Path, threads: int, kind: str) -> Data:
    """Draw as many pictures as the time allows, and convert them."""
    begun = time.perf_counter()
    photograph(0).save(place / "one.jpg")
    (place / "one.jpg").unlink()
    each_s = (time.perf_counter() - begun) / threads
    fewest, most = PHOTOGRAPHS[kind]
    # Half of the time, for converting and what else processes do.
    num = 2048 if record.left_s is None else int(0.5 * record.left_s / each_s)
    num = min(most, max(fewest, num // 256 * 256))
    folder, beton = place / "photographs", place / "photographs.beton"
    make_imagefolder(folder, num, NUM_CLASSES, threads, record.on_round)
    times = max(1, -(-FILES[kind] // num))
    for file in sorted(folder.rglob("*.jpg")):
        for number in range(1, times):
            file.with_name(f"{file.stem}-{number}.jpg").hardlink_to(file)
    convert(folder, beton, threads, ())
    each = "" if times == 1 else f", each in {times} files"
    record.say(f"{num} pictures of 500 pixels, quality 90{each}, made and converted")
    return Data(beton, folder)


def check_data(data: Path, source: Path | None) -> None:
    """Say at once what is wrong with a user's data.

    Raises:
        UserError: it cannot be read.
    """
    open_dataset(data)
    if source is not None:
        list_imagefolder(source)


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
