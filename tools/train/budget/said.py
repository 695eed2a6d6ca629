"""What `fastdeit budget` says: the predictions as a table, and all that they take for granted."""

from __future__ import annotations

from dataclasses import replace

from fastdeit.config import TrainConfig
from fastdeit.paper.training_time import IMAGENET_TRAIN, paper_times
from fastdeit.text.figures import duration, parse_hours, rounded
from fastdeit.text.tables import text_table
from fastdeit.tools.train.budget.scaling import (
    BUCKET_BYTES,
    MACHINES,
    Machine,
    OneGPU,
    Prediction,
    Run,
    bucket_bytes,
    predict,
)

PAPER_BATCH = 1024


def table(
    config: TrainConfig,
    num_images: int,
    num_val_images: int,
    run: Run,
    made: list[Prediction],
    within: str | None,
) -> list[str]:
    """The figures, a line for each number of GPUs."""
    judged = [] if within is None else [f"within {within}"]
    titles = ["GPUs", "img/s", "of linear", "ms/step", "compute", "averaging", "not hidden"]
    rows = [
        [
            *titles,
            "waiting",
            "from disk",
            "training h",
            "evaluation h",
            "hours",
            "limit",
            "in all",
            *judged,
        ]
    ]
    for each in made:
        parts = (each.step_s, each.compute_s, each.all_reduce_s, each.exposed_s, each.wait_s)
        row = [
            str(each.num_gpus),
            _rate_text(each.img_per_s),
            f"{each.efficiency_frac:.1%}",
            *(f"{1000 * part:,.2f}" for part in parts),
            _rate_text(each.first_img_per_s),
            *(f"{hours:,.2f}" for hours in (each.train_hours, each.eval_hours, each.hours)),
            each.limit,
            duration(each.hours * 3600),
        ]
        if within is not None:
            spare_h = parse_hours(within) - each.hours
            verdict = "inside by" if spare_h >= 0 else "over by"
            row.append(f"{verdict} {duration(abs(spare_h) * 3600)}")
        rows.append(row)
    lines = [
        f"{config.model.model}, {config.data.image_size} px, {config.optim.epochs} epochs of "
        f"{num_images:,} images in {run.steps_per_epoch:,} steps, batch {run.step_images:,}; "
        f"evaluated on {num_val_images:,}",
        *(f"  {line}" for line in text_table(rows, "r" * 12 + "l").split("\n")),
    ]
    papers = [("the paper:", f"{time.hours:,.2f} h", time.what) for time in paper_times(config)]
    return lines + (
        [f"  {line}" for line in text_table(papers, "lrl").split("\n")] if papers else []
    )


def _rate_text(img_per_s: float) -> str:
    """A rate with three digits at least."""
    return f"{img_per_s:,.0f}" if img_per_s >= 100 else f"{img_per_s:.3g}"


def assumptions(gpu: OneGPU, run: Run, machine: Machine, made: list[Prediction]) -> list[str]:
    """What the figures take for granted, a line each."""
    rates = ", ".join(f"{rounded(rate)} img/s at batch {size:,}" for size, rate in gpu.rates)
    lines = [f"a device trains {rates} ({gpu.what})"]
    beyond = sorted(each.batch_size for each in made if not gpu.is_between(each.batch_size))
    if beyond:
        few = f"{beyond[0]:,}" if len(beyond) == 1 else f"{beyond[0]:,} to {beyond[-1]:,}"
        lines.append(
            f"batches of {few} a device were not measured: as many images a second as at the "
            "nearest that was, and they fit into its memory"
        )
    if made[-1].num_gpus > 1:
        how = "by its operations" if gpu.backward_frac is None else "measured"
        backward_frac = run.backward_frac if gpu.backward_frac is None else gpu.backward_frac
        lines += [
            "more than one device: predicted, not measured",
            f"{backward_frac:.0%} of a step is its backward pass ({how})",
            f"{run.gradient_bytes / 1e6:,.1f} MB of gradients are averaged in "
            f"{len(bucket_bytes(run.gradient_bytes))} buckets of {BUCKET_BYTES >> 20} MiB, the "
            "first 1 MiB, while the backward pass makes the next, evenly; it slows no kernel",
            "a GPU sends 2 (N - 1) / N of them at the rate of the slowest link, after the hops of "
            "a chain in each node and a tree of nodes, there and back; none waits for a slower one",
            *machine.sources,
        ]
    set_gb = run.set_images * run.image_bytes / 1e9
    lines.append(
        f"an image has {rounded(run.image_bytes / 1000, 3)} kB; the set, {rounded(set_gb, 3)} GB, "
        f"is read once from a node's own disk ({machine.disk_gb_s:g} GB/s) if half of its "
        f"{machine.memory_gib:,.0f} GiB holds it, else in every epoch"
    )
    lines.append("evaluation does as many operations a second as training; it was not run")
    lines.append("saving, and compiling once, are not counted")
    return lines


def loader_line(gpu: OneGPU, run: Run, machine: Machine) -> str:
    """What the loader is taken for."""
    assert gpu.loader_img_per_s is not None
    return (
        f"a core loads {rounded(gpu.loader_img_per_s)} samples/s, {run.copies} of an image "
        f"({gpu.loader_what}); each GPU has {machine.cores_per_node / machine.gpus_per_node:g} "
        "such cores"
    )


def paper_line(config: TrainConfig, run: Run) -> list[str]:
    """The same model on the paper's own times: 16 GPUs from its 8; nothing where it has none."""
    times = {time.num_gpus: time for time in paper_times(config)}
    if not {8, 16} <= set(times):
        return []
    one, two = times[8], times[16]
    steps = IMAGENET_TRAIN // PAPER_BATCH
    rate = one.epochs * steps * PAPER_BATCH / (one.hours * 3600) / 8
    v100 = OneGPU(rates=((PAPER_BATCH // 8, rate),), what="the paper", backward_frac=2 / 3)
    theirs = replace(run, step_images=PAPER_BATCH, steps_per_epoch=steps, epochs=two.epochs)
    hours = predict(v100, replace(theirs, image_bytes=0.0), MACHINES["v100"], 16).train_hours
    return [
        f"this model, given the paper's {one.hours:g} h on 8 V100, predicts {hours:.1f} h on 16; "
        f"the paper took {two.hours:g} h: what it leaves out can cost as much"
    ]
