"""The model of `scaling` beside real training in two processes.

One process, and the averaging of its gradients by two, give the prediction. Two that do not talk
give another one: what is between both is the machine's, which two at once slow down.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict

from fastdeit.benchmarks.budget.scaling import Machine, Measured, Work, bucket_bytes, predict
from fastdeit.benchmarks.budget.two_processes import PARTS, Job, run_two
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import percentile
from fastdeit.measured.rows import Row

CASE = "budget check"
ALONE, APART, TOGETHER = "one process", "2 processes that do not talk", "2 processes"
PREDICTED = "2 processes, predicted from one"
PREDICTED_APART = "2 processes, predicted from two that do not talk"
ALL_REDUCE = "averaging the gradients of 2 processes"
STEPS = {"cpu": 4, "cuda": 20}
"""Steps of each part of a round."""
AVERAGES = {"cpu": 5, "cuda": 20}
"""How often a round averages the gradients."""
BATCH = {"cpu": 32, "cuda": 256}
"""Images a step of each process."""


def measure_check(record: Record, job: Job) -> None:
    """Measure and predict a training step of two processes.

    Rows of one process, of two that do not talk, of both predictions and of the measured rate of
    two, in img/s, and one of the averaging in GB/s. A prediction's ratio is to the measured rate of
    the same round.

    Args:
        record: takes the rows.
        job: what they do.

    Raises:
        UserError: there are no two cores or GPUs, or a process failed; its own message was shown.
    """
    facts = run_two(job, record.on_round)
    gradient_bytes, images = int(facts["gradient_bytes"]), job.batch_size
    settings = {key: value for key, value in asdict(job).items() if key != "rounds"}
    rounds = [dict(zip(PARTS, seconds, strict=True)) for seconds in facts["rounds"]]

    def predicted(seconds: dict[str, float], own_s: float) -> float:
        """Images a second, by the model, where the steps of a process by itself take `own_s`."""
        measured = Measured(
            img_per_s=((images, images * job.num_steps / own_s),),
            gradient_bytes=gradient_bytes,
            backward_frac=float(facts["backward_frac"]),
        )
        machine = Machine(
            name="here",
            gpus_per_node=2,
            # Two processes send as many bytes as there are: 2 (N - 1) / N of them.
            link_gb_s=gradient_bytes * job.num_averages / seconds["all_reduce"] / 1e9,
            network_gb_s=1.0,
            latency_us=0.0,
            cores_per_node=2,
            memory_gib=1.0,
            disk_gb_s=1.0,
            overlaps=job.kind == "cuda",
        )
        work = Work(num_images=2 * images, epochs=1)
        return predict(measured, machine, work, 2, 2 * images).img_per_s

    rates = {
        ALONE: [images * job.num_steps / one["alone"] for one in rounds],
        APART: [2 * images * job.num_steps / one["apart"] for one in rounds],
        PREDICTED: [predicted(one, one["alone"]) for one in rounds],
        PREDICTED_APART: [predicted(one, one["apart"]) for one in rounds],
        TOGETHER: [2 * images * job.num_steps / one["together"] for one in rounds],
    }
    ratios = {
        name: [rate / base for rate, base in zip(rates[name], rates[TOGETHER], strict=True)]
        for name in (PREDICTED, PREDICTED_APART)
    }
    errors = {
        name: f"error {100 * statistics.median(one) - 100:+.1f}%" for name, one in ratios.items()
    }
    where = "each on a core of its own" if job.kind == "cpu" else "each on a GPU of its own"
    how = "after" if job.kind == "cpu" else "beside"
    notes = {
        ALONE: f"{facts['model']}, batch {images}, {facts['reason']}; the other process waits",
        APART: f"{where}, no averaging; what is missing to twice one process is the machine's",
        PREDICTED: f"that and the averaging, {how} the backward pass; {errors[PREDICTED]}",
        PREDICTED_APART: f"so too, with the machine as busy; {errors[PREDICTED_APART]}",
        TOGETHER: f"{where}; {gradient_bytes / 1e6:.1f} MB of gradients averaged in each step",
    }
    rows = []
    for name, values in rates.items():
        is_compared = name in ratios
        rows.append(
            Row(
                case=CASE,
                name=name,
                unit="img/s",
                n=len(values),
                median=statistics.median(values),
                p20=percentile(values, 0.2),
                p80=percentile(values, 0.8),
                baseline=TOGETHER if is_compared else None,
                ratio=statistics.median(ratios[name]) if is_compared else None,
                ratio_p20=percentile(ratios[name], 0.2) if is_compared else None,
                ratio_p80=percentile(ratios[name], 0.8) if is_compared else None,
                ratios={TOGETHER: statistics.median(ratios[name])} if is_compared else {},
                note=notes[name],
                batch_size=images,
                settings=settings,
            )
        )
    speeds = [gradient_bytes * job.num_averages / one["all_reduce"] / 1e9 for one in rounds]
    sizes = len(bucket_bytes(gradient_bytes))
    rows.append(
        Row(
            case=f"{CASE}, communication",
            name=ALL_REDUCE,
            unit="GB/s",
            n=len(speeds),
            median=statistics.median(speeds),
            p20=percentile(speeds, 0.2),
            p80=percentile(speeds, 0.8),
            note=f"{gradient_bytes / 1e6:.1f} MB in {sizes} buckets by "
            f"{'nccl' if job.kind == 'cuda' else 'gloo'}; nothing else goes on",
            settings=settings,
        )
    )
    record.add(rows)
