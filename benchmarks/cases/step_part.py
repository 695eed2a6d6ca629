"""The part of a run that measures the step of one recipe."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fastdeit.benchmarks.cases.step import STEP, Files
from fastdeit.benchmarks.cases.step_bench import AUGMENTATION, StepBench
from fastdeit.benchmarks.cases.step_phases import write_trace
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import measure
from fastdeit.benchmarks.peers.deit_loop import BASELINE
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.machine.device import choose_compute
from fastdeit.measured.rows import Row, with_ratio
from fastdeit.pipelines.pace import in_memory


def measure_step(
    record: Record,
    label: str,
    config: TrainConfig,
    stand_in: ModelConfig,
    files: Files | None,
    has_peers: bool,
    rounds: int,
    has_step_case: bool = True,
    beside: tuple[str, Row] | None = None,
    trace: Path | None = None,
    hands_over_code: bool = False,
) -> None:
    """Measure the step of one recipe.

    Rows for the published loop, our step on batches that lie on the device, our augmentation alone:
    the case `step`. With files also the case `end-to-end`: the published loop with its own loader,
    and for each engine our step and the loader alone. Ratios are to the published loop and to our
    step on batches that lie there. The bound of a step is the rate of a large matrix product over
    the step's floating-point operations.

    Args:
        record: takes the rows.
        label: recipe and batch, for the names of the rows' cases.
        config: the recipe, with the threads of the engines; device and precision among it.
        stand_in: what teaches it, with random weights, if it is distilled.
        files: what the steps from files read; None leaves their rows out.
        has_peers: whether the published loop is measured.
        rounds: of `STEPS` steps each.
        has_step_case: False puts all rows into the case `end-to-end`, where another part has those
            of the step.
        beside: another way of running our step and its row, which ours is compared with.
        trace: file for torch's profile of one step, as Chrome's viewer reads it; None writes none.
        hands_over_code: whether the run gets the compiled code.

    Raises:
        UserError: the dataset cannot be read, or the step does not fit into the memory.
    """
    compute = choose_compute(config.run.device, config.run.precision)
    with ExitStack() as stack:
        stack.enter_context(in_memory(config.data.batch_size, compute))
        bench = StepBench(config, stand_in, compute, files, has_peers, stack)
        what = f"{label}{bench.name.removeprefix(STEP)}"
        with record.part(f"{what}: its operations"):
            bench.flops = bench.step_flops()
        ceilings = bench.ceilings()
        # The parts of a step and a profile of it come behind.
        effort = record.effort(rounds, 0.8)
        rows = measure(f"step: {label}", "img/s", bench.cases(), effort, bench.baselines)
        rows = [bench.completed(row, ceilings) for row in rows]
        of_step = (BASELINE, bench.name, AUGMENTATION) if has_step_case else ()
        rows = [
            row if row.name in of_step else replace(row, case=f"end-to-end: {label}")
            for row in rows
        ]
        own = next(row for row in rows if row.name == bench.name)
        if beside is not None:
            own = with_ratio(own, *beside)
        rows = [own if row.name == bench.name else row for row in rows]
        record.add(rows)
        with record.part(f"{what}: the parts of a step"):
            record.add([replace(own, phases_ms=bench.phases())])
        if hands_over_code:
            with record.part(f"{what}: its compiled code"):
                record.hand_over_code(compute.device)
        if trace is not None:
            with record.part(f"{what}: its profile"):
                bench.steps.rest()  # the parts took a pass of their own
                write_trace(trace, bench.steps, compute)
                record.say(f"a profile of one step, for chrome://tracing: {trace}")
