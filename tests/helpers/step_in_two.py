"""What `fastdeit budget` predicts of two devices, done by two processes: run it with torchrun.

Each process is bound to a core. In each round one of them trains alone while the other waits, both
average as many bytes as there are gradients, both train without talking, and both train one model.
The first process prints, as JSON, the seconds of each round's parts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # before the libraries count the cores
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]})

import torch

from fastdeit.machine.device import choose_compute
from fastdeit.machine.distributed import joined
from fastdeit.models import make_model
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import open_pipeline, pipeline_options, train_plan
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.train.budget.scaling import bucket_bytes
from fastdeit.training.session import assemble
from fastdeit.training.steps import NUM_CLASSES, TrainingSteps, work_of

BATCH, STEPS, AVERAGES, ROUNDS = 16, 3, 5, 4


def main() -> None:
    """Take part."""
    whole = changed(
        fill_recipe("demo-teacher", Path("unused")),
        data={"batch_size": 2 * BATCH, "image_size": 32},
    )
    own = changed(whole, data={"batch_size": BATCH})
    compute = choose_compute("cpu", "fp32")
    with joined(compute, 5.0) as world:
        index = synthetic_index(256, NUM_CLASSES)
        options = pipeline_options(own.data, compute.device)
        plan = train_plan(own.data, index, own.run)
        share = train_plan(whole.data, index, whole.run, world.rank, world.size)

        def model() -> torch.nn.Module:
            return make_model(own.model, NUM_CLASSES, own.data.image_size, own.run.seed)

        joint = assemble(whole, model(), None, compute, world)
        work = work_of(joint.model, None, own.data.image_size)
        buckets = [torch.ones(size // 4) for size in bucket_bytes(work.gradient_bytes)]
        with (
            open_pipeline(index, plan, "synthetic", options) as batches,
            open_pipeline(index, share, "synthetic", options) as others,
        ):
            by_one = TrainingSteps(own, assemble(own, model(), None, compute), batches)
            by_two = TrainingSteps(whole, joint, others)

            def average() -> None:
                for _ in range(AVERAGES):
                    for bucket in buckets:
                        world.sum_(bucket).mul_(0.5)

            def seconds(part: Callable[[], object]) -> float:
                """Of both: from when both begin until both are done."""
                world.barrier()
                started = time.perf_counter()
                part()
                world.barrier()
                return time.perf_counter() - started

            rounds = [
                {
                    "alone": seconds(lambda: by_one.take(STEPS) if world.is_main else None),
                    "average": seconds(average),
                    "apart": seconds(lambda: by_one.take(STEPS)),
                    "together": seconds(lambda: by_two.take(STEPS)),
                }
                for _ in range(ROUNDS)
            ]
        norms = [value.norm().item() for value in joint.model.parameters()]
        # Their images differ: without the averaging their weights would too.
        world.check_alike("the weights of one model", f"{sum(norms)!r}", "The averaging is wrong.")
        if world.is_main:
            facts = {"gradient_bytes": work.gradient_bytes, "rounds": rounds[1:]}
            sys.stdout.write(f"{json.dumps(facts)}\n")


if __name__ == "__main__":
    main()
