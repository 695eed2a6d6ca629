"""The part of a run that measures the step of one recipe."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from fastdeit.benchmarks.cases.step import STEP, StepJob
from fastdeit.benchmarks.cases.step_bench import AUGMENTATION, StepBench
from fastdeit.benchmarks.cases.step_phases import write_trace
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import measure
from fastdeit.benchmarks.peers.deit_loop import BASELINE
from fastdeit.machine.device import choose_compute
from fastdeit.measured.rows import with_ratio
from fastdeit.training.steps import in_memory


def measure_step(record: Record, job: StepJob) -> None:
    """Measure the step of one recipe.

    Rows for the published loop, our step on batches that lie on the device, our augmentation alone:
    the case `step`. With files also the case `end-to-end`: the published loop with its own loader,
    and for each engine our step and the loader alone. Ratios are to the published loop and to our
    step on batches that lie there. The bound of a step is the rate of a large matrix product over
    the step's floating-point operations.

    Raises:
        UserError: the dataset cannot be read, or the step does not fit into the memory.
    """
    config, label = job.config, job.label
    compute = choose_compute(config.run.device, config.run.precision)
    with ExitStack() as stack:
        stack.enter_context(in_memory(config.data.batch_size, compute))
        bench = StepBench(job, compute, stack)
        what = f"{label}{job.name.removeprefix(STEP)}"
        with record.part(f"{what}: its operations"):
            bench.flops = bench.step_flops()
        ceilings = bench.ceilings()
        # The parts of a step and a profile of it come behind.
        effort = record.effort(job.rounds, 0.8)
        rows = measure(f"step: {label}", "img/s", bench.cases(), effort, bench.baselines)
        rows = [bench.completed(row, ceilings) for row in rows]
        of_step = (BASELINE, job.name, AUGMENTATION) if job.has_step_case else ()
        rows = [
            row if row.name in of_step else replace(row, case=f"end-to-end: {label}")
            for row in rows
        ]
        own = next(row for row in rows if row.name == job.name)
        if job.beside is not None:
            own = with_ratio(own, *job.beside)
        rows = [own if row.name == job.name else row for row in rows]
        record.add(rows)
        with record.part(f"{what}: the parts of a step"):
            record.add([replace(own, phases_ms=bench.phases())])
        if job.hands_over_code:
            with record.part(f"{what}: its compiled code"):
                record.hand_over_code(compute.device)
        if job.trace is not None:
            with record.part(f"{what}: its profile"):
                bench.steps.rest()  # the parts took a pass of their own
                write_trace(job.trace, bench.steps, compute)
                record.say(f"a profile of one step, for chrome://tracing: {job.trace}")
