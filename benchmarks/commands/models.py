"""`fastdeit bench step` and `end-to-end`: training, without and with its loader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastdeit.benchmarks.commands.shared import Precision, require_at_least
from fastdeit.config import TrainConfig
from fastdeit.errors import require
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed

if TYPE_CHECKING:
    from fastdeit.benchmarks.run import BenchRun
    from fastdeit.benchmarks.step import Files
    from fastdeit.device import Compute

RECIPES_OF = {"cpu": ("demo",), "cuda": ("deit-ti", "deit-s", "deit-b", "deit-b-distilled")}
"""Which recipes are measured unless told otherwise; the others take a CPU minutes a step."""
GPU_BATCH = 256
"""On a GPU unless told otherwise: the share of a step of 1,024 on four."""


def step(
    recipe: tuple[str, ...] = (),
    batch_size: tuple[int, ...] = (),
    model: str | None = None,
    image_size: int | None = None,
    data: Path | None = None,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    threads: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    rounds: int = 5,
    out: Path | None = None,
) -> int:
    """Measure the training step beside that of the published code, and where its time goes.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. The images are noise that lies on the device. Random weights of the paper's
    regnety_160 teach a distilled recipe, or of demo-teacher's model for demo.

    Args:
        recipe: whose steps; unless given deit-ti, deit-s, deit-b and deit-b-distilled on a GPU and
            demo on a CPU.
        batch_size: images a step; several give each recipe several times. Unless given 256 on a
            GPU and the recipe's on a CPU.
        model: in place of the recipe's, a name of timm.
        image_size: in place of the recipe's, in pixels.
        data: dataset to decode, best a .beton, for the step from files and the loader alone.
        engine: what decodes it.
        threads: of the engine; 0 takes every usable core.
        device: where to train; auto, cpu, cuda or cuda:N.
        precision: of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU.
            The published loop takes fp16 on a GPU and fp32 on a CPU.
        rounds: timed rounds of each.
        out: folder for the rows and a chart; rows of other benchmarks there stay.

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
    wanted = Wanted(recipe, batch_size, model, image_size, threads)
    from fastdeit.benchmarks.run import BenchRun
    from fastdeit.benchmarks.step import Files
    from fastdeit.device import choose_compute
    from fastdeit.pipelines.datasets.index import open_dataset

    if data is not None:
        open_dataset(data)  # so that what is wrong with it is said at once
    compute = choose_compute(device, precision)
    files = None if data is None else Files(data, (engine,))
    with BenchRun(out, compute.device) as run:
        measure_recipes(run, wanted, compute, files, rounds)
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
        out: folder for the rows and a chart; rows of other benchmarks there stay.

    Returns:
        0, or 1 if one of the recipes could not be measured.
    """
    require_at_least(1, rounds=rounds)
    wanted = Wanted(recipe, batch_size, model, image_size, threads)
    from fastdeit.benchmarks.loaders import engines_for
    from fastdeit.benchmarks.run import BenchRun
    from fastdeit.benchmarks.step import Files
    from fastdeit.device import choose_compute
    from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
    from fastdeit.pipelines.datasets.index import open_dataset

    if source is not None:
        list_imagefolder(source)  # so that what is wrong with it is said at once
    engines = tuple(engine or engines_for(open_dataset(data)))
    compute = choose_compute(device, precision)
    files = Files(data, engines, source)
    with BenchRun(out, compute.device) as run:
        measure_recipes(run, wanted, compute, files, rounds)
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

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: a number is too small.
        """
        require_at_least(0, threads=self.threads)
        require_at_least(16, image_size=self.image_size)
        for batch_size in self.batch_sizes:
            require_at_least(1, batch_size=batch_size)

    def on(self, kind: str) -> list[tuple[str, int | None]]:
        """Recipes and batch sizes on a kind of device; None is the recipe's own batch."""
        own: tuple[int | None, ...] = (GPU_BATCH,) if kind == "cuda" else (None,)
        sizes = self.batch_sizes or own
        return [(recipe, size) for recipe in self.recipes or RECIPES_OF[kind] for size in sizes]

    def resolve(self, recipe: str, batch_size: int | None) -> TrainConfig:
        """The recipe with what is changed in it; its paths are not used.

        Raises:
            UserError: there is no such recipe, or the changes do not fit to it.
        """
        data = {"image_size": self.image_size, "batch_size": batch_size}
        return changed(
            fill_recipe(recipe, Path("unused")),
            data={"threads": self.threads} | {n: v for n, v in data.items() if v is not None},
            model={} if self.model is None else {"model": self.model},
        )


def measure_recipes(
    run: BenchRun,
    wanted: Wanted,
    compute: Compute,
    files: Files | None,
    rounds: int,
    seconds: float | None = None,
) -> None:
    """Measure each recipe at each batch size; what cannot be is said, and the others go on.

    Args:
        run: takes the rows.
        wanted: which.
        compute: device and precision.
        files: what the steps from files read.
        rounds: timed rounds of each.
        seconds: most of the time for the rounds of all; None sets no limit.
    """
    from fastdeit.benchmarks.step import bench_step
    from fastdeit.pipelines.pace import usual_teacher

    pairs = wanted.on(compute.device.type)
    for recipe, batch_size in pairs:
        with run.part(recipe if batch_size is None else f"{recipe}, batch {batch_size}"):
            config = wanted.resolve(recipe, batch_size)
            label = f"{recipe}, batch {config.data.batch_size}"
            effort = run.effort(rounds, None if seconds is None else seconds / len(pairs))
            teacher = usual_teacher(recipe)
            run.add(bench_step(label, config, teacher, compute, files, effort))
