"""`fastdeit bench budget`: training on many GPUs, on paper, and a check of that on two."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastdeit.benchmarks.budget.scaling import MACHINES, Machine
from fastdeit.benchmarks.cases.step import GPU_BATCH, Wanted
from fastdeit.benchmarks.harness.options import Precision, require_at_least
from fastdeit.errors import UserError, require
from fastdeit.text.figures import parse_hours
from fastdeit.text.progress import say

if TYPE_CHECKING:
    from fastdeit.benchmarks.budget.inputs import Known
    from fastdeit.benchmarks.budget.predict import Budget
    from fastdeit.benchmarks.budget.two_processes import Job
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.config import TrainConfig

GPUS = (1, 2, 4, 8, 16, 32, 64)
IMAGE_BYTES = 51_000
"""Source: docs/benchmarks.rst of libffcv/ffcv: 65.5 GB for ImageNet at 512 pixels, JPEG q90."""
STEPS = {"cpu": 4, "cuda": 50}
"""Timed ones, where the step is measured now."""
DEFAULT_RECIPE = {"cpu": "demo", "cuda": "deit-b"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineChanges:
    """Figures of the nodes in place of the preset's."""

    gpus_per_node: int | None = None
    """GPUs of a node, in place of --machine's."""
    link_gb_s: float | None = None
    """What a GPU sends to the others of its node in GB/s, in place of --machine's."""
    network_gb_s: float | None = None
    """What a node sends to the others in GB/s, all adapters together, in place of --machine's."""
    latency_us: float | None = None
    """Of a hop in microseconds, in place of --machine's."""
    cores_per_node: int | None = None
    """That decode, in place of --machine's."""
    memory_gib: float | None = None
    """Of a node, in place of --machine's."""
    disk_gb_s: float | None = None
    """What a node reads from its own disks in GB/s, in place of --machine's."""

    def applied(self, machine: Machine) -> Machine:
        """The machine with these figures.

        Raises:
            UserError: one is not above 0.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in given.items():
            least = 0 <= value if name == "latency_us" else 0 < value
            rule = "must be 0 or more" if name == "latency_us" else "must be above 0"
            option = name.replace("_", "-")
            require(least and value < math.inf, name, value, rule, f"Leave out --{option}.")
        if not given:
            return machine
        changed = ", ".join(f"{name} {value:g}" for name, value in given.items())
        sources = (*machine.sources, f"but as given: {changed}")
        return replace(machine, name=f"{machine.name} changed", sources=sources, **given)


def budget(
    recipe: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = (),
    /,
    rows_at: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None,
    rate: float | None = None,
    gpus: tuple[int, ...] = GPUS,
    batch_size: int | None = None,
    loader_rate: float | None = None,
    image_bytes: float = IMAGE_BYTES,
    machine: Literal["hopper", "v100"] = "hopper",
    changes: MachineChanges = MachineChanges(),
    within: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    check: bool = True,
    rounds: int = 5,
    out: Path | None = None,
) -> int:
    """Predict images a second on 1 to 64 GPUs from what was measured on one, and check on two.

    The step of one GPU comes from kept rows, from a given rate, or is measured now. The figures of
    the other GPUs are on paper; every assumption is listed. The check trains in two processes (on
    two GPUs, or demo on two cores), beside what the same model predicts of them.

    Args:
        recipe: whose steps; unless given all whose rows there are, or deit-b, or demo where it is
            measured on a CPU.
        rows_at: --out folder of `bench step`, `end-to-end`, `loaders` or `all`, or a file of rows.
        rate: images a second of one GPU; then no step is measured.
        gpus: how many.
        batch_size: images a GPU; unless given the largest that was measured, or 256.
        loader_rate: samples a second of the loader on one core; unless given that of the rows.
        image_bytes: of an image on disk; a 512 px JPEG of quality 90 unless given.
        machine: what a node is taken for.
        changes: figures in place of its own.
        within: a limit such as 72h; the exit code is 1 if no number of GPUs ends the recipe, at its
            own batch, within it.
        device: where to measure and to check; auto, cpu, cuda or cuda:N.
        precision: of the step that is measured now or taken from the rows.
        check: whether to train in two processes.
        rounds: timed rounds of the check.
        out: folder for the rows and charts, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if the check could not be done or no number of GPUs is within the limit.
    """
    within_hours = None if within is None else parse_hours(within)
    refuse(recipe, rows_at, rate, gpus, batch_size, loader_rate, image_bytes)
    for name, found, acts in (
        ("precision", precision, rate is None),
        ("device", device, check or (rate is None and rows_at is None)),
    ):
        require(
            acts or found == "auto",
            name,
            found,
            "has no effect where nothing is measured",
            f"Leave out --{name}.",
        )
    require(
        check or rounds == 5, "rounds", rounds, "has no effect with --no-check", "Leave it out."
    )
    nodes = changes.applied(MACHINES[machine])

    from fastdeit.benchmarks.budget.check import CASE
    from fastdeit.benchmarks.budget.plot import plot_budget
    from fastdeit.benchmarks.budget.predict import budget_rows, budget_table
    from fastdeit.benchmarks.harness.isolated import Part
    from fastdeit.benchmarks.harness.run import BenchRun

    start = Start(rows_at, rate, batch_size, loader_rate, device, precision)
    asked = start.recipes(recipe)
    made = []
    with BenchRun(out, device, is_shown=lambda row: row.family != "budget") as run:
        names = asked or (DEFAULT_RECIPE[run.machine.kind],)
        for name in names:
            try:
                one = start.budget(run, name, nodes, sorted(set(gpus)), image_bytes)
            except UserError as error:
                run.hear_failed(f"budget: {name}", str(error))
                continue
            if one is not None:
                made.append(one)
                say("\n".join(budget_table(one)))
                run.add(budget_rows(one, precision))
                plot_budget(one, run.out / f"budget_{name}_gpus.png")
        if check:
            options = {"job": start.job(run, names[0], rounds)}
            work = "fastdeit.benchmarks.budget.check:measure_check"
            run.measure(Part(name=CASE, work=work, options=options))
        code = run.end()
    return code if within_hours is None else code | judged(made, within_hours)


def refuse(
    recipes: tuple[str, ...],
    rows_at: Path | None,
    rate: float | None,
    gpus: tuple[int, ...],
    batch_size: int | None,
    loader_rate: float | None,
    image_bytes: float,
) -> None:
    """Refuse what cannot be predicted.

    Raises:
        UserError: a number is too small, a recipe is not known, or two options exclude each other.
    """
    for recipe in recipes:
        Wanted().resolve(recipe, None)
    require_at_least(1, batch_size=batch_size)
    require(len(gpus) > 0, "gpus", "none", "must be some", "Leave out --gpus.")
    for number in gpus:
        require_at_least(1, gpus=number)
    for name, value in (("rate", rate), ("loader_rate", loader_rate), ("image_bytes", image_bytes)):
        option = name.replace("_", "-")
        is_right = value is None or 0 < value < math.inf
        require(is_right, name, value, "must be above 0", f"Leave out --{option}.")
    require(
        rate is None or rows_at is None,
        "rate",
        f"--from {rows_at} too",
        "must come from one place",
        "Leave out --rate or --from.",
    )
    require(
        rate is None or len(recipes) <= 1,
        "rate",
        ", ".join(recipes),
        "must be that of one recipe",
        "Name one.",
    )


def judged(budgets: list[Budget], within_hours: float) -> int:
    """Say which number of GPUs is enough; 1 if none is for one of the recipes."""
    code = 0
    for one in budgets:
        enough = [each for each in one.fixed_all if each.hours <= within_hours]
        if enough:
            first = enough[0]
            verdict = f"{first.num_gpus} GPUs, {first.hours:,.2f} h"
        else:
            verdict, code = "none of these", 1
        print(f"{one.recipe} within {within_hours:g} h, predicted: {verdict}", file=sys.stderr)
    return code


@dataclass(frozen=True, slots=True)
class Start:
    """Where the figures of one GPU come from."""

    rows_at: Path | None
    """Kept rows."""
    rate: float | None
    """A given rate."""
    batch_size: int | None
    """Images a GPU, if that was said."""
    loader_rate: float | None
    """Of one core, if that was said."""
    device: str
    """Where to measure."""
    precision: Precision
    """Of the step."""

    def recipes(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are asked for, else all there are rows of; empty leaves it to the device.

        Raises:
            UserError: the rows hold none.
        """
        if self.rows_at is not None:
            from fastdeit.benchmarks.budget.inputs import read_folder, recipes_in

            found = recipes_in(read_folder(self.rows_at), self.rows_at)
            return asked or tuple(found)
        return asked or (("deit-b",) if self.rate is not None else ())

    def budget(
        self, run: BenchRun, recipe: str, nodes: Machine, gpus: list[int], image_bytes: float
    ) -> Budget | None:
        """The predictions for a recipe; None if its step could not be measured, which was said.

        Raises:
            UserError: its step cannot be had.
        """
        from fastdeit.benchmarks.budget.predict import make_budget

        known, config = self.known(run, recipe)
        if known is None:
            return None
        if self.loader_rate is not None:
            known = replace(known, loader_img_per_s=self.loader_rate, loader_what="as given")
        batch_size = self.batch_size or known.rates[-1][0]
        return make_budget(recipe, config, known, nodes, gpus, batch_size, image_bytes)

    def known(self, run: BenchRun, recipe: str) -> tuple[Known | None, TrainConfig]:
        """What is known of one GPU, and the recipe as it was measured."""
        from fastdeit.benchmarks.budget.inputs import Known, known_of, read_folder
        from fastdeit.benchmarks.harness.isolated import Part

        config = Wanted().resolve(recipe, None)
        if self.rows_at is not None:
            rows = read_folder(self.rows_at)
            copies = config.data.repeats
            known = known_of(rows, self.rows_at, recipe, self.precision, copies)
            return known, Wanted(model=known.model, image_size=known.image_size).resolve(
                recipe, None
            )
        batch_size = self.batch_size or min(GPU_BATCH, config.data.batch_size)
        if self.rate is not None:
            return Known(rates=((batch_size, self.rate),), what="as given"), config
        config_here = Wanted().resolve(
            recipe, batch_size, device=self.device, precision=self.precision
        )
        options = {"recipe": recipe, "config": config_here, "num_steps": STEPS[run.machine.kind]}
        work = "fastdeit.benchmarks.budget.inputs:measure_known"
        part = Part(name=f"budget: {recipe}", work=work, options=options)
        return run.measure(part), config

    def job(self, run: BenchRun, recipe: str, rounds: int) -> Job:
        """What the two processes of the check do: the recipe on two GPUs, else demo on two cores.

        Other recipes take one core minutes a step.
        """
        from fastdeit.benchmarks.budget.check import AVERAGES, BATCH, STEPS
        from fastdeit.benchmarks.budget.two_processes import Job

        has_two = run.machine.kind == "cuda" and run.environment["num_gpus"] >= 2
        kind = "cuda" if has_two else "cpu"
        return Job(
            recipe=recipe if has_two else "demo",
            kind=kind,
            precision=self.precision if has_two else "auto",
            batch_size=BATCH[kind],
            num_steps=STEPS[kind],
            num_averages=AVERAGES[kind],
            rounds=rounds,
        )
