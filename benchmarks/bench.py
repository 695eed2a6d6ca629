"""`fastdeit bench`: how fast, compared with what, and what holds it back."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

import tyro

from fastdeit import UserError
from fastdeit.recipes import RECIPES, fill_recipe


def bench(
    what: tyro.conf.Positional[
        Literal["loaders", "footprint", "augment", "step", "convert", "scale", "all"]
    ],
    /,
    data: Path | None = None,
    source: Path | None = None,
    out: Path | None = None,
    recipe: str = "demo",
    image_size: int = 224,
    batch_size: int = 64,
    num_images: int = 1024,
    scale_images: int = 1_281_167,
    rounds: int = 5,
    threads: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> int:
    """Measure conversion, loaders and the training step, each beside its baseline and bound.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. A table goes to stderr; the last line on stdout is one JSON object.

    Args:
        what: loaders (every engine beside FFCV's, DALI's and DeiT's own, on one core and on all),
            augment (each operation, policies and the whole stage beside timm's on PIL, on one
            core), step (the training step beside the published loop), convert (beside FFCV's
            writer), all of these; footprint (memory and overhead of the loaders); or scale
            (conversion of as many tiny images as ImageNet has, in the temporary folder).
        data: dataset for the loaders, best a .beton.
        source: ImageFolder of the same images, for DALI's and DeiT's own pipelines and for
            conversion; they are left out without it.
        out: file for the rows, as JSON lines; a bar chart is put beside it, as .png.
        recipe: whose step is measured.
        image_size: side of the images of loaders and augment in pixels; the step takes the
            recipe's.
        batch_size: samples a step of the loaders and of augment; the step takes the recipe's.
        num_images: a round of a loader is an epoch over so many images.
        scale_images: how many images scale takes.
        rounds: timed rounds of each.
        threads: threads or workers of each loader; 0 takes every usable core.
        device: where the step and our augmentation run; auto, cpu, cuda or cuda:N.
        precision: of the step; auto is bf16 autocast on a GPU and fp32 on a CPU.

    Returns:
        0.
    """
    for name, value in (
        ("rounds", rounds),
        ("batch_size", batch_size),
        ("num_images", num_images),
        ("scale_images", scale_images),
    ):
        if value < 1:
            option = name.replace("_", "-")
            raise UserError(f"{name} must be at least 1. Found: {value}. Leave out --{option}.")
    if image_size < 16:
        raise UserError(f"image_size must be at least 16. Found: {image_size}. Pass 224, say.")
    if batch_size > num_images:
        raise UserError(
            f"batch_size must be at most num_images ({num_images}). Found: {batch_size}. "
            "Pass a smaller --batch-size or a larger --num-images."
        )
    if recipe not in RECIPES:
        raise UserError(f"no such recipe. Found: {recipe}. See `fastdeit train --list`.")
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
                image_size,
                batch_size,
                threads or num_usable_cores(),
                rounds,
                num_images,
                on_round,
            )
        if what == "footprint" and data is not None:
            rows += bench_footprint(data, image_size, threads or num_usable_cores(), on_round)
        if what in ("convert", "all") and source is not None:
            rows += bench_convert(source, threads or num_usable_cores(), rounds, on_round)
        if what == "scale":
            rows += bench_scale(Path(gettempdir()), scale_images, on_round)
        if what in ("augment", "all"):
            rows += bench_augment(batch_size, image_size, compute.device, rounds, on_round)
        if what in ("step", "all"):
            rows += bench_step(fill_recipe(recipe, Path("unused")), 20, compute, rounds, on_round)
    environment = {**describe_environment(), "device": str(compute.device)}
    if out is not None:
        write_rows(out, rows, environment)
        plot_bars(rows, out.with_suffix(".png"))
    print(format_table(rows), file=sys.stderr)
    print(json.dumps({"rows": [asdict(row) for row in rows], "environment": environment}))
    return 0
