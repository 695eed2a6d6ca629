"""`fastdeit bench all`: on a GPU the most telling first, in sizes that fit a given time."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

from fastdeit.benchmarks.cases.augment import PAPER
from fastdeit.benchmarks.cases.budgeted_plan import TOPICS, planned
from fastdeit.benchmarks.cases.convert import run_convert
from fastdeit.benchmarks.cases.loaders import check_data, engines_for
from fastdeit.benchmarks.cases.step import Files
from fastdeit.benchmarks.harness.clock import Clock, Planned
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import Device, Numbers, Out, Precision, Threads
from fastdeit.benchmarks.harness.photographs import make_imagefolder, photograph
from fastdeit.benchmarks.harness.record import Record, reason_of
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.errors import UserError, require
from fastdeit.machine.threads import num_usable_cores
from fastdeit.measured.rows import Row
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.text.figures import parse_hours
from fastdeit.text.progress import say

NUM_CLASSES = 16
PHOTOGRAPHS = {"cpu": (512, 16_384), "cuda": (2048, 16_384)}
"""Fewest and most pictures that are drawn."""
FILES = {"cpu": 0, "cuda": 32_768}
"""So many files at least: each picture comes several times where drawing would take too long. An
epoch of a GPU is short, and its start counts."""


def _listed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names with commas or spaces between."""
    return tuple(name for text in names for name in text.split(",") if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked(Numbers):
    """What a user wants of a run of everything."""

    within: str | None = None
    """end within this time, such as 8m, compiling and warm-up counted; sizes and rounds are chosen
    so. On a GPU a part that would not fit is left out by name; on a CPU each does the least that
    tells something. Unless given everything is measured in full, which takes from half an hour to
    hours."""
    only: tuple[str, ...] = ()
    """what is measured: ceilings, augment, step, end-to-end, variants, table5, distilled, loaders,
    peers, convert, with commas or spaces between; all unless given. Variants, distilled and peers
    are parts of their own on a GPU only."""
    skip: tuple[str, ...] = ()
    """what is not, likewise."""
    peers: Annotated[
        bool,
        tyro.conf.arg(
            help="whether others (PIL, the published loop, FFCV's and DALI's own) are measured too."
        ),
    ] = True
    data: Path | None = None
    """dataset in place of photographs of our own, best a .beton."""
    source: Path | None = None
    """ImageFolder of the same images, for DALI's and DeiT's own pipelines and for conversion; they
    are left out without it."""
    threads: Threads = 0
    device: Device = "auto"
    precision: Precision = "auto"
    """of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU."""
    trace: bool = False
    """on a GPU, write torch's profile of one step of DeiT-B into the folder."""
    save_compiled: bool = False
    """write the compiled code of all parts into the folder, as compiled.zip."""
    compiled: Path | None = None
    """compiled code of an earlier run on the same kind of GPU: a part starts in seconds."""
    out: Out = None

    def __post_init__(self) -> None:
        """Refuse topics that there are not, and what has no effect."""
        Numbers.__post_init__(self)
        require(
            self.source is None or self.data is not None,
            "source",
            self.source,
            "has no effect without the dataset of its images",
            "Pass --data X.beton too.",
        )
        known = f"Known: {', '.join(TOPICS)}."
        for option, names in (("only", self.only), ("skip", self.skip)):
            for name in _listed(names):
                require(name in TOPICS, option, name, "must name what is measured", known)
        if not any(map(self.wants, TOPICS)):
            found = f"--skip {','.join(_listed(self.skip))}"
            require(False, "something", found, "must be left to measure", "Skip less.")

    def wants(self, topic: str) -> bool:
        """Whether a topic is measured."""
        only, skip = _listed(self.only), _listed(self.skip)
        return (not only or topic in only) and topic not in skip

    @property
    def cores(self) -> int:
        """Threads or workers of each loader."""
        return self.threads or num_usable_cores()


def everything(asked: Annotated[Asked, tyro.conf.arg(name="")] = Asked()) -> int:
    """Measure everything: ceilings, augmentation, training, inference, loaders, conversion.

    Needs no dataset and no network: it draws photographs of its own, which are removed again. Each
    part runs in a process of its own: what fails is a line, and the others go on. A row is on disk
    when it is measured; table, report and the closing JSON come whatever happens. On a GPU the most
    telling comes first.
    """
    limit_s = None if asked.within is None else 3600 * parse_hours(asked.within)
    check_data(asked.data, asked.source)
    clock = Clock(limit_s)
    with BenchRun(asked.out, asked.device, asked.precision, _is_main) as run:
        clock.kind = run.machine.kind
        for name in ("save_compiled", "compiled", "trace"):
            require(  # where nothing of all is compiled
                not getattr(asked, name) or clock.kind == "cuda",
                name,
                getattr(asked, name),
                "has no effect in `bench all` on a CPU",
                "Leave it out, or take `bench step --compile default`.",
            )
        run.load_compiled(asked.compiled)
        Suite(run, asked, clock).measure()
        code = run.end()
        if limit_s is not None and clock.elapsed_s > limit_s:
            took = f"took {clock.elapsed_s:.0f} s, not {limit_s:.0f} s"
            say(f"{took}: the least that is measured takes so long here as it is now")
        return code


@dataclass(frozen=True, slots=True)
class Data:
    """What loaders, steps and conversion read."""

    beton: Path
    """Of our engines."""
    source: Path | None
    """ImageFolder of the same images, for the others."""


class Suite:
    """One run of everything."""

    def __init__(self, run: BenchRun, asked: Asked, clock: Clock) -> None:
        """Measure nothing yet."""
        self.run, self.asked, self.clock = run, asked, clock
        self.kind = clock.kind
        self.data: Data | None = None

    def measure(self) -> None:
        """Measure what is planned, in turn."""
        from fastdeit.pipelines.open import is_installed

        for engine, name in (("ffcv", "FFCV"), ("dali", "DALI")):
            if not is_installed(engine):
                self.run.hear_left_out(name, "it is not installed")
        plan = [one for one in planned(self) if self.asked.wants(one.topic)]
        if not plan:
            raise UserError(
                f"something must be left to measure. Found: {', '.join(_listed(self.asked.only))}, "
                f"of which there is nothing on this device ({self.kind}) with these options. Name "
                "others in --only."
            )
        with ExitStack() as stack:
            plan = self._with_data(plan, stack)
            for number, one in enumerate(plan):
                try:
                    self._do(one, plan[number + 1 :])
                except BaseException:
                    for later in plan[number + 1 :]:
                        self.run.hear_left_out(later.name, "the run was ended before")
                    raise

    def _do(self, one: Planned, later: list[Planned]) -> None:
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

    def _with_data(self, plan: list[Planned], stack: ExitStack) -> list[Planned]:
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
        options = {"place": place, "threads": self.asked.cores, "kind": self.kind}
        part = Part(name="photographs", work=f"{__name__}:make_data", options=options)
        drawn = Planned(
            "photographs", "photographs", lambda _: [part], least_s=20, most_s=40, weight=0.06
        )
        return [*plan[:first], drawn, *plan[first:]]

    def files(self, has_peers: bool) -> Files:
        """What steps from files read: in a hurry through the fastest engine only.

        The loaders have rows of their own.
        """
        assert self.data is not None
        engines = tuple(engines_for(open_dataset(self.data.beton)))
        if self.clock.limit_s is not None or self.kind == "cuda":
            engines = engines[:1]
        return Files(self.data.beton, engines, self.data.source if has_peers else None)


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
    run_convert(folder, beton, threads, ())
    each = "" if times == 1 else f", each in {times} files"
    record.say(f"{num} pictures of 500 pixels, quality 90{each}, made and converted")
    return Data(beton, folder)


def _is_main(row: Row) -> bool:
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
