"""`fastdeit bench step` and `end-to-end`: training, without and with its loader."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastdeit.benchmarks.cases.loaders import check_data, engines_for
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import (
    Data,
    Device,
    Numbers,
    Out,
    Precision,
    Rounds,
    Source,
    Threads,
    require_peers,
)
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.config import TrainConfig
from fastdeit.errors import UserError, require
from fastdeit.measured.rows import Row
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.recipes import check_recipe_name, fill_recipe
from fastdeit.recipes.entry import changed

if TYPE_CHECKING:
    from fastdeit.pipelines.open import Engine

STEP = "fastdeit step"
RECIPES_OF = {"cpu": ("demo",), "cuda": ("deit-ti", "deit-s", "deit-b", "deit-b-distilled")}
"""Which recipes are measured unless told otherwise; the others take a CPU minutes a step."""
GPU_BATCH = 256
"""On a GPU unless told otherwise: the share of a step of 1,024 on four."""

Compile = Literal["auto", "off", "default", "reduce-overhead", "max-autotune"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted(Numbers):
    """Which steps are measured."""

    recipe: tuple[str, ...] = ()
    """whose steps; unless given deit-ti, deit-s, deit-b and deit-b-distilled on a GPU and demo on a
    CPU."""
    batch_size: tuple[int, ...] = ()
    """images a step; several give each recipe several times. Unless given 256 on a GPU and the
    recipe's on a CPU."""
    model: str | None = None
    """in place of the recipe's, a name of timm."""
    image_size: int | None = None
    """in place of the recipe's, in pixels."""
    threads: Threads = 0
    device: Device = "auto"
    precision: Precision = "auto"
    """of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU. The published
    loop takes fp16 on a GPU and fp32 on a CPU."""
    rounds: Rounds = 5
    peers: Annotated[
        bool,
        tyro.conf.arg(
            help="whether the published loop is measured, beside the first combination of a batch."
        ),
    ] = True

    def __post_init__(self) -> None:
        """Refuse recipes that there are not."""
        Numbers.__post_init__(self)
        for recipe in self.recipe:
            check_recipe_name(recipe)

    def on(self, kind: str) -> list[tuple[str, int | None]]:
        """Recipes and batch sizes on a kind of device; None is the recipe's own batch."""
        own: tuple[int | None, ...] = (GPU_BATCH,) if kind == "cuda" else (None,)
        return list(itertools.product(self.recipe or RECIPES_OF[kind], self.batch_size or own))

    def resolve(self, recipe: str, batch_size: int | None, **run: str) -> TrainConfig:
        """The recipe so changed; its paths are not used. `run` are fields of `RunConfig`."""
        data = {"image_size": self.image_size, "batch_size": batch_size}
        return changed(
            fill_recipe(recipe, Path("unused")),
            data={"threads": self.threads} | {n: v for n, v in data.items() if v is not None},
            model={} if self.model is None else {"model": self.model},
            run={"device": self.device, "precision": self.precision} | run,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions(Wanted):
    """What `step` may be asked for."""

    compile: tuple[Compile, ...] = ("auto",)
    """as in `fastdeit train`; several give each recipe several times."""
    attention: tuple[Attention, ...] = ("auto",)
    """as in `fastdeit train`; several likewise."""
    data: Path | None = None
    """dataset to decode, best a .beton, for the step from files and the loader alone."""
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto"
    """what decodes it."""
    trace: bool = False
    """write torch's profile of one step of each into the folder."""
    save_compiled: bool = False
    """write the compiled code into the folder, as compiled.zip."""
    compiled: Path | None = None
    """compiled code of an earlier run on the same kind of device."""
    out: Out = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOptions(Wanted):
    """What `end-to-end` may be asked for."""

    data: Data
    source: Source = None
    engine: tuple[Literal["ffcv", "dali", "pil"], ...] = ()
    """which; unless given, all that are installed and read the dataset."""
    out: Out = None


@dataclass(frozen=True, slots=True)
class Files:
    """What the steps from files read."""

    data: Path
    """Of our engines."""
    engines: tuple[Engine, ...]
    """Which of them; none is left out because another is faster."""
    source: Path | None = None
    """ImageFolder of the same images, for DeiT's own loader; None leaves it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepJob:
    """What `measure_step` does for one recipe."""

    recipe: str
    config: TrainConfig
    """The recipe as it is measured, with device, precision and the threads of the engines."""
    rounds: int
    """Timed ones, of several steps each."""
    files: Files | None = None
    """What the steps from files read; None leaves their rows out."""
    has_peers: bool = True
    has_step_case: bool = True
    """False puts all rows into the case `end-to-end`, where another part has those of the step."""
    beside: tuple[str, Row] | None = None
    """Another way of running our step and its row, which ours is compared with."""
    trace: Path | None = None
    """File for torch's profile of one step, as Chrome's viewer reads it."""
    hands_over_code: bool = False

    @property
    def label(self) -> str:
        """Recipe and batch, as the rows' cases name them."""
        return f"{self.recipe}, batch {self.config.data.batch_size}"

    @property
    def name(self) -> str:
        """Our step, with how it is compiled and its attention, where they were chosen."""
        chosen = {"compile": self.config.run.compile, "attention": self.config.run.attention}
        words = [f"{what} {name}" for what, name in chosen.items() if name != "auto"]
        return ", ".join([STEP, *words])

    @property
    def part(self) -> Part:
        """In a process of its own."""
        words = self.name.removeprefix(STEP) + ", from files" * (self.files is not None)
        work = "fastdeit.benchmarks.cases.step_part:measure_step"
        return Part(name=f"step: {self.label}{words}", work=work, options={"job": self})

    def row_in(self, rows: Iterable[Row]) -> tuple[str, Row] | None:
        """Its row among others, as others stand `beside` it; None if it was not measured."""
        case, batch = f"step: {self.label}", self.config.data.batch_size
        row = next((row for row in rows if (row.case, row.name) == (case, self.name)), None)
        return None if row is None else (f"{self.name}, batch {batch}", row)


def step(asked: Annotated[StepOptions, tyro.conf.arg(name="")] = StepOptions()) -> int:
    """Measure the training step beside that of the published code, and where its time goes.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. The images are noise that lies on the device. Random weights of the paper's
    regnety_160 teach a distilled recipe, or of demo-teacher's model for demo.

    Several batch sizes, modes of compiling or implementations of attention are measured in each
    combination, in a process of its own, and stand beside the first one.
    """
    for name, value, usual in (("engine", asked.engine, "auto"), ("threads", asked.threads, 0)):
        require(
            asked.data is not None or value == usual,
            name,
            value,
            "has no effect without a dataset to decode",
            f"Pass --data X.beton too, or leave out --{name}.",
        )
    for name, values in (("compile", asked.compile), ("attention", asked.attention)):
        require(len(values) > 0, name, "none", "must be some", f"Leave out --{name}.")
    check_data(asked.data, None)
    files = None if asked.data is None else Files(asked.data, (asked.engine,))
    ways: list[dict[str, str]] = [
        {"compile": mode, "attention": attention}
        for mode, attention in itertools.product(asked.compile, asked.attention)
    ]
    is_compiled = not {"auto", "off"}.issuperset(asked.compile)
    with BenchRun(asked.out, asked.device, asked.precision) as run:
        require(
            not asked.save_compiled or is_compiled or run.machine.kind == "cuda",
            "save_compiled",
            True,
            "has no effect where nothing is compiled, as by default on a CPU",
            "Leave it out, or pass --compile default.",
        )
        run.load_compiled(asked.compiled)
        _measure_recipes(run, asked, files, ways, asked.trace, asked.save_compiled)
        return run.end()


def end_to_end(asked: Annotated[FileOptions, tyro.conf.arg(name="")]) -> int:
    """Measure training from files on disk through each engine, beside DeiT's own pipeline.

    Each engine's rate is compared with the step on images that lie on the device: what is missing
    to 1 is the time that the loader costs.
    """
    require_peers(asked.peers, asked.source)
    check_data(asked.data, asked.source)
    engines = tuple(asked.engine or engines_for(open_dataset(asked.data)))
    files = Files(asked.data, engines, asked.source)
    with BenchRun(asked.out, asked.device, asked.precision) as run:
        _measure_recipes(run, asked, files, [{}], False, False)
        return run.end()


def _measure_recipes(
    run: BenchRun,
    wanted: Wanted,
    files: Files | None,
    ways: list[dict[str, str]],
    has_trace: bool,
    hands_over_code: bool,
) -> None:
    """Measure each recipe in each way; what cannot be is said, and the others go on."""
    first: tuple[str, tuple[str, Row]] | None = None
    for recipe, batch_size in wanted.on(run.machine.kind):
        for number, way in enumerate(ways):
            try:
                config = wanted.resolve(recipe, batch_size, **way)
            except UserError as error:
                what = recipe if batch_size is None else f"{recipe}, batch {batch_size}"
                run.hear_failed(what, str(error))
                continue
            job = StepJob(
                recipe=recipe,
                config=config,
                rounds=wanted.rounds,
                files=files,
                has_peers=wanted.peers and number == 0,
                beside=first[1] if first is not None and first[0] == recipe else None,
                hands_over_code=hands_over_code,
            )
            if has_trace:
                slug = "-".join(re.findall(r"\w+", f"{job.label} {job.name.partition(',')[2]}"))
                job = replace(job, trace=run.out / f"trace_{slug}.json.gz")
            run.measure(job.part)
            found = job.row_in(run.rows)
            if found is not None and (first is None or first[0] != recipe):
                first = recipe, found
