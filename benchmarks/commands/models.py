"""`fastdeit bench step` and `end-to-end`: training, without and with its loader."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastdeit.benchmarks.commands.shared import Precision, require_at_least, require_peers
from fastdeit.config import TrainConfig
from fastdeit.errors import UserError, require
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed

if TYPE_CHECKING:
    from fastdeit.benchmarks.cases.step import Files
    from fastdeit.benchmarks.harness.isolated import Part
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.measured.rows import Row

RECIPES_OF = {"cpu": ("demo",), "cuda": ("deit-ti", "deit-s", "deit-b", "deit-b-distilled")}
"""Which recipes are measured unless told otherwise; the others take a CPU minutes a step."""
GPU_BATCH = 256
"""On a GPU unless told otherwise: the share of a step of 1,024 on four."""


Compile = Literal["auto", "off", "default", "reduce-overhead", "max-autotune"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]


def step(
    recipe: tuple[str, ...] = (),
    batch_size: tuple[int, ...] = (),
    compile: tuple[Compile, ...] = ("auto",),
    attention: tuple[Attention, ...] = ("auto",),
    model: str | None = None,
    image_size: int | None = None,
    data: Path | None = None,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    threads: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    rounds: int = 5,
    peers: bool = True,
    trace: bool = False,
    save_compiled: bool = False,
    compiled: Path | None = None,
    out: Path | None = None,
) -> int:
    """Measure the training step beside that of the published code, and where its time goes.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. The images are noise that lies on the device. Random weights of the paper's
    regnety_160 teach a distilled recipe, or of demo-teacher's model for demo.

    Several batch sizes, modes of compiling or implementations of attention are measured in each
    combination, in a process of its own, and stand beside the first one.

    Args:
        recipe: whose steps; unless given deit-ti, deit-s, deit-b and deit-b-distilled on a GPU and
            demo on a CPU.
        batch_size: images a step; several give each recipe several times. Unless given 256 on a
            GPU and the recipe's on a CPU.
        compile: as in `fastdeit train`; several give each recipe several times.
        attention: as in `fastdeit train`; several likewise.
        model: in place of the recipe's, a name of timm.
        image_size: in place of the recipe's, in pixels.
        data: dataset to decode, best a .beton, for the step from files and the loader alone.
        engine: what decodes it.
        threads: of the engine; 0 takes every usable core.
        device: where to train; auto, cpu, cuda or cuda:N.
        precision: of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU.
            The published loop takes fp16 on a GPU and fp32 on a CPU.
        rounds: timed rounds of each.
        peers: whether the published loop is measured, beside the first combination of a batch.
        trace: write torch's profile of one step of each into the folder.
        save_compiled: write the compiled code into the folder, as compiled.zip.
        compiled: compiled code of an earlier run on the same kind of device.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if one of the recipes could not be measured.
    """
    for name, is_given in (("engine", engine != "auto"), ("threads", threads != 0)):
        found = engine if name == "engine" else threads
        require(
            data is not None or not is_given,
            name,
            found,
            "has no effect without a dataset to decode",
            f"Pass --data X.beton too, or leave out --{name}.",
        )
    require_at_least(1, rounds=rounds)
    wanted = Wanted(recipe, batch_size, model, image_size, threads, compile, attention)
    from fastdeit.benchmarks.cases.step import Files
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.pipelines.datasets.index import open_dataset

    if data is not None:
        open_dataset(data)  # so that what is wrong with it is said at once
    files = None if data is None else Files(data, (engine,))
    how = How(device, precision, rounds, peers, trace, save_compiled)
    with BenchRun(out, device, precision) as run:
        load_compiled(run, compiled)
        measure_recipes(run, wanted, how, files)
        return run.end()


def end_to_end(
    data: Path,
    source: Path | None = None,
    recipe: tuple[str, ...] = (),
    batch_size: tuple[int, ...] = (),
    model: str | None = None,
    image_size: int | None = None,
    engine: tuple[Literal["ffcv", "dali", "pil"], ...] = (),
    threads: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    rounds: int = 5,
    peers: bool = True,
    out: Path | None = None,
) -> int:
    """Measure training from files on disk through each engine, beside DeiT's own pipeline.

    Each engine's rate is compared with the step on images that lie on the device: what is missing
    to 1 is the time that the loader costs.

    Args:
        data: dataset for our engines, best a .beton.
        source: ImageFolder of the same images, for the published loop with its own loader (torch's
            DataLoader, PIL, timm's transform); it is left out without it.
        recipe: as in `bench step`.
        batch_size: as in `bench step`.
        model: in place of the recipe's, a name of timm.
        image_size: in place of the recipe's, in pixels.
        engine: which; unless given, all that are installed and read the dataset.
        threads: of each loader; 0 takes every usable core.
        device: where to train; auto, cpu, cuda or cuda:N.
        precision: as in `bench step`.
        rounds: timed rounds of each.
        peers: whether the published loop is measured.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if one of the recipes could not be measured.
    """
    require_at_least(1, rounds=rounds)
    require_peers(peers, source)
    wanted = Wanted(recipe, batch_size, model, image_size, threads)
    from fastdeit.benchmarks.cases.loaders import engines_for
    from fastdeit.benchmarks.cases.step import Files
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
    from fastdeit.pipelines.datasets.index import open_dataset

    if source is not None:
        list_imagefolder(source)  # so that what is wrong with it is said at once
    engines = tuple(engine or engines_for(open_dataset(data)))
    files = Files(data, engines, source)
    with BenchRun(out, device, precision) as run:
        measure_recipes(run, wanted, How(device, precision, rounds, peers), files)
        return run.end()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which steps are measured."""

    recipes: tuple[str, ...] = ()
    """Empty takes those of the device."""
    batch_sizes: tuple[int, ...] = ()
    """Images a step; empty takes one, of the device."""
    model: str | None = None
    """In place of the recipes'."""
    image_size: int | None = None
    """In place of the recipes', in pixels."""
    threads: int = 0
    """Of each loader; 0 takes every usable core."""
    compile: tuple[str, ...] = ("auto",)
    """Modes of compiling."""
    attention: tuple[str, ...] = ("auto",)
    """Implementations of attention."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: a number is too small.
        """
        require_at_least(0, threads=self.threads)
        require_at_least(16, image_size=self.image_size)
        for batch_size in self.batch_sizes:
            require_at_least(1, batch_size=batch_size)
        for name, values in (("compile", self.compile), ("attention", self.attention)):
            require(len(values) > 0, name, "none", "must be some", f"Leave out --{name}.")

    def on(self, kind: str) -> list[tuple[str, int | None]]:
        """Recipes and batch sizes on a kind of device; None is the recipe's own batch."""
        own: tuple[int | None, ...] = (GPU_BATCH,) if kind == "cuda" else (None,)
        sizes = self.batch_sizes or own
        return [(recipe, size) for recipe in self.recipes or RECIPES_OF[kind] for size in sizes]

    def variants(self) -> list[dict[str, str]]:
        """Each way of running a step."""
        pairs = itertools.product(self.compile, self.attention)
        return [{"compile": mode, "attention": attention} for mode, attention in pairs]

    def resolve(self, recipe: str, batch_size: int | None, **run: str) -> TrainConfig:
        """The recipe with what is changed in it; its paths are not used.

        Args:
            recipe: its name.
            batch_size: images a step; None is the recipe's own.
            run: fields of `RunConfig`: device, precision, compile, attention.

        Raises:
            UserError: there is no such recipe, or the changes do not fit to it.
        """
        data = {"image_size": self.image_size, "batch_size": batch_size}
        return changed(
            fill_recipe(recipe, Path("unused")),
            data={"threads": self.threads} | {n: v for n, v in data.items() if v is not None},
            model={} if self.model is None else {"model": self.model},
            run=run,
        )


@dataclass(frozen=True, slots=True)
class How:
    """How steps are measured."""

    device: str
    """Where, as it was asked for."""
    precision: str
    """Of our step, likewise."""
    rounds: int
    """Timed ones."""
    has_peers: bool = True
    """Whether the published loop is measured."""
    has_trace: bool = False
    """Whether a step is profiled."""
    hands_over_code: bool = False
    """Whether the run gets the compiled code."""


def step_part(
    recipe: str,
    config: TrainConfig,
    rounds: int,
    files: Files | None = None,
    has_peers: bool = True,
    has_step_case: bool = True,
    beside: tuple[str, Row] | None = None,
    trace: Path | None = None,
    hands_over_code: bool = False,
) -> Part:
    """The part that `measure_step` does.

    Args:
        recipe: whose step.
        config: the recipe as it is measured.
        rounds: see `measure_step`.
        files: see there.
        has_peers: see there.
        has_step_case: see there.
        beside: see there.
        trace: see there.
        hands_over_code: see there.
    """
    from fastdeit.benchmarks.cases.step import STEP, step_name
    from fastdeit.benchmarks.harness.isolated import Part
    from fastdeit.training.steps import usual_teacher

    label = f"{recipe}, batch {config.data.batch_size}"
    words = step_name(config).removeprefix(STEP)
    return Part(
        name=f"step: {label}{words}{', from files' if files is not None else ''}",
        work="fastdeit.benchmarks.cases.step_part:measure_step",
        options={
            "label": label,
            "config": config,
            "stand_in": usual_teacher(recipe),
            "files": files,
            "has_peers": has_peers,
            "rounds": rounds,
            "has_step_case": has_step_case,
            "beside": beside,
            "trace": trace,
            "hands_over_code": hands_over_code,
        },
    )


def measure_recipes(run: BenchRun, wanted: Wanted, how: How, files: Files | None) -> None:
    """Measure each recipe in each way; what cannot be is said, and the others go on."""
    from fastdeit.benchmarks.cases.step import step_name

    first: tuple[str, tuple[str, Row]] | None = None
    for recipe, batch_size in wanted.on(run.machine.kind):
        for number, variant in enumerate(wanted.variants()):
            what = recipe if batch_size is None else f"{recipe}, batch {batch_size}"
            try:
                config = wanted.resolve(
                    recipe, batch_size, device=how.device, precision=how.precision, **variant
                )
            except UserError as error:
                run.hear_failed(what, str(error))
                continue
            name = step_name(config)
            label = f"{recipe}, batch {config.data.batch_size}"
            slug = "-".join(re.findall(r"[\w]+", f"{label} {name.partition(',')[2]}"))
            part = step_part(
                recipe,
                config,
                how.rounds,
                files,
                how.has_peers and number == 0,
                beside=first[1] if first is not None and first[0] == recipe else None,
                trace=run.out / f"trace_{slug}.json.gz" if how.has_trace else None,
                hands_over_code=how.hands_over_code,
            )
            run.measure(part)
            case = f"step: {label}"
            row = next((row for row in run.rows if (row.case, row.name) == (case, name)), None)
            if row is not None and (first is None or first[0] != recipe):
                first = recipe, (f"{name}, batch {config.data.batch_size}", row)


def load_compiled(run: BenchRun, path: Path | None) -> None:
    """Put the compiled code of an earlier run where the parts find it.

    Raises:
        UserError: it is of no use here.
    """
    if path is None:
        return
    from fastdeit.benchmarks.harness.isolated import Part

    options = {"path": path, "device": run.environment["device"]}
    part = Part(
        name="loading compiled code",
        work="fastdeit.benchmarks.harness.compiled_file:load",
        options=options,
    )
    run.measure(part)
    if part.name in run.failed:
        raise UserError(run.failed.pop(part.name))
