"""`fastdeit bench`: how fast, compared with what, and what holds it back."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import tyro

from fastdeit import UserError
from fastdeit.config import TrainConfig
from fastdeit.recipes import RECIPES, fill_recipe
from fastdeit.recipes.entry import changed

IMAGE_SIZE, BATCH_SIZE = 224, 64
"""Of loaders and augment, unless told otherwise; the step takes its recipe's."""
NUM_IMAGES = 1024
USED_BY: dict[str, tuple[str, ...]] = {
    "data": ("loaders", "footprint", "step"),
    "source": ("loaders", "convert"),
    "recipe": ("step",),
    "model": ("step",),
    "engine": ("step",),
    "image_size": ("loaders", "footprint", "augment", "step"),
    "batch_size": ("loaders", "augment", "step"),
    "num_images": ("loaders",),
    "scale_images": ("scale",),
    "rounds": ("loaders", "augment", "step", "convert"),
    "threads": ("loaders", "footprint", "convert", "step"),
    "device": ("augment", "step"),
    "precision": ("step",),
}
"""Which benchmarks an option matters to; `all` is all of them but footprint and scale."""


def bench(
    what: tyro.conf.Positional[
        Literal["loaders", "footprint", "augment", "step", "convert", "scale", "all"]
    ],
    /,
    data: Path | None = None,
    source: Path | None = None,
    out: Path | None = None,
    recipe: str = "demo",
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    engine: Literal["auto", "ffcv", "dali", "pil"] = "auto",
    num_images: int = NUM_IMAGES,
    scale_images: int = 1_281_167,
    rounds: int = 5,
    threads: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto",
) -> int:
    """Measure conversion, loaders and the training step, each beside its baseline and bound.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. A table goes to stderr; the last line on stdout is one JSON object.

    Args:
        what: loaders (every engine beside FFCV's, DALI's and DeiT's own, on one core and on all),
            augment (each operation, policies and the whole stage beside timm's on PIL, on one
            core), step (the published loop, our step on images that lie on the device and, with
            --data, from files, and how long it waits for them), convert (beside FFCV's writer),
            all of these; footprint (memory and overhead of the loaders); or scale (conversion of
            as many tiny images as ImageNet has, in the temporary folder).
        data: dataset for the loaders and the step from files, best a .beton.
        source: ImageFolder of the same images, for DALI's and DeiT's own pipelines and for
            conversion; they are left out without it.
        out: file for the rows, as JSON lines; a bar chart is put beside it, as .png.
        recipe: whose step is measured; if it is distilled, random weights teach it, of the
            paper's regnety_160, or of demo-teacher's model for demo.
        model: of the step, in place of the recipe's, a name of timm.
        image_size: side of the images in pixels; 224 for loaders and augment, the recipe's for the
            step unless given.
        batch_size: samples a step; 64 for loaders and augment, the recipe's for the step unless
            given.
        engine: what decodes for the step from files.
        num_images: a round of a loader is an epoch over so many images.
        scale_images: how many images scale takes.
        rounds: timed rounds of each.
        threads: threads or workers of each loader; 0 takes every usable core.
        device: where the step and our augmentation run; auto, cpu, cuda or cuda:N.
        precision: of our step; auto is bf16 autocast on a GPU and fp32 on a CPU. The published
            loop takes fp16 on a GPU and fp32 on a CPU.

    Returns:
        0.
    """
    check_effect(
        what,
        data is not None,
        {
            "data": data,
            "source": source,
            "recipe": recipe,
            "model": model,
            "engine": engine,
            "image_size": image_size,
            "batch_size": batch_size,
            "num_images": num_images,
            "scale_images": scale_images,
            "rounds": rounds,
            "threads": threads,
            "device": device,
            "precision": precision,
        },
    )
    for name, value in (
        ("rounds", rounds),
        ("batch_size", batch_size),
        ("num_images", num_images),
        ("scale_images", scale_images),
    ):
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UserError(f"{name} must be at least 1. Found: {value}. Leave out --{option}.")
    if image_size is not None and image_size < 16:
        raise UserError(f"image_size must be at least 16. Found: {image_size}. Pass 224, say.")
    own_size, own_batch = image_size or IMAGE_SIZE, batch_size or BATCH_SIZE
    if what in ("loaders", "all") and own_batch > num_images:
        raise UserError(
            f"batch_size must be at most num_images ({num_images}). Found: {own_batch}. "
            "Pass a smaller --batch-size or a larger --num-images."
        )
    if recipe not in RECIPES:
        raise UserError(f"no such recipe. Found: {recipe}. See `fastdeit train --list`.")
    config = step_config(recipe, model, image_size, batch_size, engine, threads)
    if what in ("loaders", "footprint", "all") and data is None:
        raise UserError(f"bench {what} needs a dataset. Found: none. Pass --data X.beton.")
    if what == "convert" and source is None:
        raise UserError("bench convert needs an ImageFolder. Found: none. Pass --source TRAIN.")

    from tqdm import tqdm

    from fastdeit.benchmarks.augment import bench_augment
    from fastdeit.benchmarks.convert import bench_convert
    from fastdeit.benchmarks.footprint import bench_footprint
    from fastdeit.benchmarks.harness import Row, check_rows_file, format_table, write_rows
    from fastdeit.benchmarks.loaders import bench_loaders
    from fastdeit.benchmarks.plots import plot_bars
    from fastdeit.benchmarks.scale import bench_scale
    from fastdeit.benchmarks.step import bench_step
    from fastdeit.cores import num_usable_cores
    from fastdeit.device import choose_compute
    from fastdeit.environment import describe_environment
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.pace import usual_teacher

    if threads < 0:
        raise UserError(f"threads must be 0 or more. Found: {threads}. Pass --threads 0.")
    if out is not None:
        check_rows_file(out)
    compute = choose_compute(device, precision)
    rows: list[Row] = []
    with tqdm(desc="measuring", unit="round", delay=2, disable=not sys.stderr.isatty()) as bar:

        def on_round() -> None:
            bar.update()

        if what in ("loaders", "all") and data is not None:
            open_dataset(data)  # so that what is wrong with it is said at once
            rows += bench_loaders(
                data,
                source,
                own_size,
                own_batch,
                threads or num_usable_cores(),
                rounds,
                num_images,
                on_round,
            )
        if what == "footprint" and data is not None:
            rows += bench_footprint(data, own_size, threads or num_usable_cores(), on_round)
        if what in ("convert", "all") and source is not None:
            rows += bench_convert(source, threads or num_usable_cores(), rounds, on_round)
        if what == "scale":
            rows += bench_scale(Path(gettempdir()), scale_images, on_round)
        if what in ("augment", "all"):
            rows += bench_augment(own_batch, own_size, compute.device, rounds, on_round)
        if what in ("step", "all"):
            stand_in = usual_teacher(recipe)
            rows += bench_step(config, stand_in, compute, data, rounds, on_round)
    environment = {**describe_environment(), "device": str(compute.device)}
    if out is not None:
        write_rows(out, rows, environment)
        plot_bars(rows, out.with_suffix(".png"))
    print(format_table(rows), file=sys.stderr)
    print(json.dumps({"rows": [asdict(row) for row in rows], "environment": environment}))
    return 0


def check_effect(what: str, has_data: bool, options: dict[str, Any]) -> None:
    """Refuse options that the benchmark asked for makes no use of.

    Args:
        what: the benchmark.
        has_data: whether there is a dataset to decode.
        options: by name.

    Raises:
        UserError: one of them has another value than its default, and no effect.
    """
    parameters = inspect.signature(bench).parameters
    for name, value in options.items():
        if value == parameters[name].default:
            continue
        option = f"--{name.replace('_', '-')}"
        used_by = USED_BY[name]
        if what not in used_by and not (what == "all" and used_by != ("scale",)):
            raise UserError(
                f"{name} has no effect in bench {what}. Found: {value}. Leave out {option}; "
                f"it is for {', '.join(used_by)}."
            )
        if what == "step" and name in ("engine", "threads") and not has_data:
            raise UserError(
                f"{name} has no effect without a dataset to decode. Found: {value}. "
                f"Pass --data X.beton too, or leave out {option}."
            )


def step_config(
    recipe: str,
    model: str | None,
    image_size: int | None,
    batch_size: int | None,
    engine: str,
    threads: int,
) -> TrainConfig:
    """The recipe of the step with what is changed in it; its paths are not used.

    Raises:
        UserError: the changes do not fit to it.
    """
    data = {"image_size": image_size, "batch_size": batch_size, "engine": engine}
    return changed(
        fill_recipe(recipe, Path("unused")),
        data={"threads": threads} | {name: v for name, v in data.items() if v is not None},
        model={} if model is None else {"model": model},
    )
