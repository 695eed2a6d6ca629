"""Predictions for a recipe: their rows, their table and what they take for granted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from fastdeit.benchmarks.budget.inputs import Known
from fastdeit.benchmarks.budget.scaling import (
    BUCKET_BYTES,
    MACHINES,
    Machine,
    Measured,
    Prediction,
    Work,
    bucket_bytes,
    predict,
)
from fastdeit.config import TrainConfig
from fastdeit.measured.rows import Row, with_bound
from fastdeit.models import make_model
from fastdeit.paper.training_time import (
    IMAGENET_TRAIN,
    IMAGENET_VAL,
    PaperTime,
    num_eval_passes,
    paper_times,
)
from fastdeit.pipelines.pace import NUM_CLASSES, count_work, usual_teacher
from fastdeit.text.figures import rounded
from fastdeit.text.tables import text_table

PAPER_BATCH = 1024
NOT_MEASURED = "predicted, not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The predictions for one recipe."""

    recipe: str
    """Its name."""
    config: TrainConfig
    """It."""
    measured: Measured
    """One GPU."""
    machine: Machine
    """What they stand in."""
    fixed_each: list[Prediction]
    """At a fixed number of images a GPU."""
    fixed_all: list[Prediction]
    """At the recipe's number of images a step."""
    assumed: list[str]
    """What is taken for granted, a line each."""

    @property
    def modes(self) -> list[tuple[str, list[Prediction]]]:
        """Both, with what they are."""
        each = self.fixed_each[0].batch_size
        in_all = self.config.data.batch_size
        return [
            (f"{each:,} images a GPU", self.fixed_each),
            (f"{in_all:,} images in all, as the recipe", self.fixed_all),
        ]


# ---- what is predicted of it -------------------------------------------------------------------
def make_budget(
    recipe: str,
    config: TrainConfig,
    known: Known,
    machine: Machine,
    gpus: list[int],
    batch_size: int,
    image_bytes: float,
) -> Budget:
    """Predict a recipe on each number of GPUs.

    Args:
        recipe: its name.
        config: it, with the model and the resolution that were measured.
        known: one GPU.
        machine: what they stand in.
        gpus: how many, rising.
        batch_size: images a GPU where that is fixed.
        image_bytes: of an image on disk.
    """
    counted = count_work(config, usual_teacher(recipe))
    with torch.device("meta"):
        model = make_model(config.model, NUM_CLASSES, config.data.image_size)
    num_trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    by_operations = 2 * counted.eval_flops / counted.train_flops
    measured = Measured(
        img_per_s=known.rates,
        gradient_bytes=4 * num_trained,
        backward_frac=by_operations if known.backward_frac is None else known.backward_frac,
        loader_img_per_s=known.loader_img_per_s,
        copies=config.data.repeats,
        image_bytes=image_bytes,
    )
    work = Work(
        num_images=IMAGENET_TRAIN,
        epochs=config.optim.epochs,
        eval_images=num_eval_passes(config) * IMAGENET_VAL,
        eval_frac=counted.eval_flops / counted.train_flops,
    )
    in_all = config.data.batch_size
    alone = min(in_all, known.rates[-1][0])
    budget = Budget(
        recipe=recipe,
        config=config,
        measured=measured,
        machine=machine,
        fixed_each=[predict(measured, machine, work, n, n * batch_size) for n in gpus],
        fixed_all=[predict(measured, machine, work, n, in_all, alone) for n in gpus if n <= in_all],
        assumed=[],
    )
    budget.assumed.extend(assumptions(budget, known, counted.teacher))
    return budget


def assumptions(budget: Budget, known: Known, teacher: str | None) -> list[str]:
    """What a prediction takes for granted, a line each."""
    measured, machine = budget.measured, budget.machine
    rates = ", ".join(f"{rounded(rate)} img/s at batch {size:,}" for size, rate in known.rates)
    lines = [f"every GPU trains {rates} ({known.what})"]
    batches = sorted({each.batch_size for _, made in budget.modes for each in made})
    beyond = [size for size in batches if not measured.is_between(size)]
    if beyond:
        few = f"{beyond[0]:,}" if len(beyond) == 1 else f"{beyond[0]:,} to {beyond[-1]:,}"
        lines.append(
            f"batches of {few} a GPU were not measured: as many images a second as at the nearest "
            "that was, and they fit into its memory"
        )
    how = "by its operations" if known.backward_frac is None else "measured"
    lines.append(f"{measured.backward_frac:.0%} of a step is its backward pass ({how})")
    lines.append(
        f"{measured.gradient_bytes / 1e6:,.1f} MB of gradients are averaged in "
        f"{len(bucket_bytes(measured.gradient_bytes))} buckets of {BUCKET_BYTES >> 20} MiB, the "
        "first 1 MiB, while the backward pass makes the next, evenly; it slows no kernel"
    )
    lines.append(
        "a GPU sends 2 (N - 1) / N of them at the rate of the slowest link, after the hops of a "
        "chain in each node and a tree of nodes, there and back"
    )
    lines += machine.sources
    cores = machine.cores_per_node / machine.gpus_per_node
    if measured.loader_img_per_s is None:
        lines.append("the loader keeps up; rows of `bench loaders` or --loader-rate say if it does")
    else:
        lines.append(
            f"a core loads {rounded(measured.loader_img_per_s)} samples/s, {measured.copies} of an "
            f"image ({known.loader_what}); each GPU has {cores:g} such cores"
        )
    set_gb = IMAGENET_TRAIN * measured.image_bytes / 1e9
    lines.append(
        f"an image has {rounded(measured.image_bytes / 1000, 3)} kB; the set, "
        f"{rounded(set_gb, 3)} GB, is read once from a node's own disk if half of its "
        f"{machine.memory_gib:,.0f} GiB holds it, else in every epoch"
    )
    lines.append("evaluation does as many operations a second as training")
    if teacher is not None:
        lines.append(f"the teacher is {teacher}")
    lines.append("no process waits for a slower one; saving and compiling once are not counted")
    return [*lines, *paper_line(budget)]


def paper_line(budget: Budget) -> list[str]:
    """The same model on the paper's own times: 16 GPUs from its 8; nothing where it has none."""
    times = {time.num_gpus: time for time in paper_times(budget.config)}
    if not {8, 16} <= set(times):
        return []
    one, two = times[8], times[16]
    v100 = Measured(
        img_per_s=((PAPER_BATCH // 8, paper_rate(one) / 8),),
        gradient_bytes=budget.measured.gradient_bytes,
        backward_frac=2 / 3,
    )
    work = Work(num_images=IMAGENET_TRAIN, epochs=two.epochs)
    hours = predict(v100, MACHINES["v100"], work, 16, PAPER_BATCH).hours
    return [
        f"this model, given the paper's {one.hours:g} h on 8 V100, predicts {hours:.1f} h on 16; "
        f"the paper took {two.hours:g} h: what it leaves out can cost as much"
    ]


def paper_rate(time: PaperTime) -> float:
    """Images a second of the paper's run, or fewer than those."""
    steps = time.epochs * (IMAGENET_TRAIN // PAPER_BATCH)
    return steps * PAPER_BATCH / (time.hours * 3600)


# ---- how it is shown ---------------------------------------------------------------------------
def budget_rows(budget: Budget, precision: str) -> list[Row]:
    """A row for each number of GPUs and both modes; the first one lists what is assumed."""
    times = {time.num_gpus: time for time in paper_times(budget.config)}
    machine = {key: value for key, value in asdict(budget.machine).items() if key != "sources"}
    rows = []
    for mode, made in budget.modes:
        for each in made:
            note = (
                f"{NOT_MEASURED}; limit: {each.limit}; {rounded(each.hours)} h for "
                f"{budget.config.optim.epochs} epochs of ImageNet with their evaluation"
            )
            if each is budget.fixed_each[0]:
                note += f"; assumed: {'; '.join(budget.assumed)}"
            time = times.get(each.num_gpus)
            row = Row(
                case=f"budget: {budget.recipe}",
                name=f"{gpus_text(each.num_gpus)}, {mode}",
                unit="img/s",
                n=0,
                median=each.img_per_s,
                p20=each.img_per_s,
                p80=each.img_per_s,
                note=note,
                step_ms=1000 * each.step_s,
                model=budget.config.model.model,
                image_size=budget.config.data.image_size,
                batch_size=each.batch_size,
                params_m=budget.measured.gradient_bytes / 4e6,
                paper=None if time is None else paper_rate(time),
                paper_what=None if time is None else time.what,
                phases_ms={
                    "compute": 1000 * each.compute_s,
                    "averaging, not hidden": 1000 * each.exposed_s,
                    "loader or disk": 1000 * each.wait_s,
                },
                settings={"machine": machine, "precision": precision},
            )
            linear = each.img_per_s / each.efficiency_frac
            rows.append(with_bound(row, linear, f"{each.num_gpus} times one GPU"))
    return rows


def budget_table(budget: Budget) -> list[str]:
    """The predictions, a line each, and what they assume."""
    times = {time.num_gpus: time for time in paper_times(budget.config)}
    titles = ("GPUs", "img/s", "of linear", "ms/step", "compute", "averaging", "not hidden")
    header = [*titles, "waiting", "limit", "from disk", "hours", "the paper"]
    lines = []
    for mode, made in budget.modes:
        cells = [header]
        for each in made:
            time = times.get(each.num_gpus)
            parts = (each.step_s, each.compute_s, each.all_reduce_s, each.exposed_s, each.wait_s)
            cells.append(
                [
                    str(each.num_gpus),
                    f"{each.img_per_s:,.0f}",
                    f"{each.efficiency_frac:.1%}",
                    *(f"{1000 * part:,.2f}" for part in parts),
                    each.limit,
                    f"{each.first_img_per_s:,.0f}",
                    f"{each.hours:,.2f}",
                    "n/a" if time is None else f"{time.hours:g} h",
                ]
            )
        lines.append(
            f"{budget.recipe} on {budget.machine.name}, {mode}: {NOT_MEASURED}; "
            f"{budget.config.optim.epochs} epochs of ImageNet"
        )
        lines += [f"  {line}" for line in text_table(cells, "r").split("\n")]
    return [*lines, *(f"assumed: {line}" for line in budget.assumed)]


def gpus_text(num_gpus: int) -> str:
    """1 GPU, 8 GPUs."""
    return f"{num_gpus} GPU{'s' * (num_gpus > 1)}"
