"""Two processes that train: alone, beside each other, and one model together.

Each is bound to a core, or takes a GPU. In each round one of them trains alone while the other
waits, both average gradients, both train without talking, and both train one model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, TextIO

from fastdeit.benchmarks.budget.scaling import bucket_bytes
from fastdeit.errors import RunError, UserError, require
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed

PARTS = ("alone", "all_reduce", "apart", "together")
"""What a round times, in its order."""
MINUTES = 10.0
"""How long one waits for the other."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the two processes do; of plain types, for it goes to them as JSON."""

    recipe: str
    """Whose steps."""
    kind: str
    """cpu or cuda."""
    precision: str
    """As in `fastdeit train`."""
    batch_size: int
    """Images a step of each process."""
    num_steps: int
    """Of each part of a round."""
    num_averages: int
    """Of a round."""
    rounds: int
    """Timed ones; one more comes before."""
    image_size: int | None = None
    """In place of the recipe's, in pixels."""


# ---- two processes -----------------------------------------------------------------------------
def run_two(job: Job, on_round: Callable[[], None]) -> dict[str, Any]:
    """Run the job; whatever happens here, both processes are gone afterwards.

    Returns:
        What rank 0 says: `rounds`, seconds of `PARTS` each; `gradient_bytes`; `backward_frac`;
        `model`; `reason`.

    Raises:
        UserError: there are no two cores, or a process failed; its own message was shown.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    cores = sorted(os.sched_getaffinity(0))
    require(
        job.kind != "cpu" or len(cores) >= 2,
        "cores",
        len(cores),
        "must be two at least, for two processes",
        "Pass --no-check.",
    )
    # Kept by this process, so that no port can be taken between its choice and its use.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    facts = None
    with two_processes(job, store.port, cores) as (processes, readers):
        with DefaultSelector() as selector:
            for rank, reader in enumerate(readers):
                selector.register(reader, EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    reader, process = readers[key.data], processes[key.data]
                    line = reader.readline()
                    if line.startswith("facts "):
                        facts = json.loads(line.removeprefix("facts "))
                    elif line == "round\n":
                        on_round()
                    elif line == "":
                        selector.unregister(reader)
                        code = process.wait()
                        if code != 0:
                            raise UserError(
                                f"training in 2 processes failed. Found: exit code {code} of "
                                f"{job.recipe}. See above, or pass --no-check."
                            )
    assert facts is not None
    result: dict[str, Any] = facts
    return result


@contextmanager
def two_processes(
    job: Job, port: int, cores: list[int]
) -> Iterator[tuple[list[subprocess.Popen[bytes]], list[TextIO]]]:
    """Both processes, and what they say; at the end of the block they are killed."""
    lifeline, held = os.pipe()  # ends with this process, however that ends
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        stack.callback(os.close, held)
        stack.callback(end_all, processes)
        readers: list[TextIO] = []
        for rank in range(2):
            ours, theirs = os.pipe()
            readers.append(stack.enter_context(os.fdopen(ours)))
            told = [json.dumps(asdict(job)), str(theirs), str(lifeline)]
            bound = set(cores[rank : rank + 1]) if job.kind == "cpu" else set(cores)
            os.sched_setaffinity(0, bound)  # inherited: libraries count the cores when imported
            try:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", __name__, *told],
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs, lifeline],
                        # Ctrl-C is for this process, which ends them.
                        start_new_session=True,
                        env={**os.environ, **job_variables(job, rank, port)},
                    )
                )
            finally:
                os.sched_setaffinity(0, cores)
                os.close(theirs)
        os.close(lifeline)
        yield processes, readers


def job_variables(job: Job, rank: int, port: int) -> dict[str, str]:
    """What torchrun would say to a process; the store is kept by its starter, as there."""
    return {
        **({"OMP_NUM_THREADS": "1"} if job.kind == "cpu" else {}),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, and wait until it is gone."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


# ---- what a process does -----------------------------------------------------------------------
def main(job_text: str, writer: str, lifeline: str) -> None:
    """One of the two processes."""
    threading.Thread(target=end_with, args=(int(lifeline),), daemon=True).start()
    with os.fdopen(int(writer), "w", buffering=1) as lines:
        try:
            facts = take_part(Job(**json.loads(job_text)), lambda: print("round", file=lines))
        except (UserError, RunError) as error:
            raise SystemExit(f"fastdeit bench: {error}") from None
        if facts is not None:
            print("facts", json.dumps(facts), file=lines)


def end_with(lifeline: int) -> None:
    """End this process at once when its starter is gone."""
    os.read(lifeline, 1)
    os._exit(1)


def take_part(job: Job, on_round: Callable[[], None]) -> dict[str, Any] | None:
    """Do the rounds; rank 0 returns what `run_two` does, the other None."""
    import torch

    from fastdeit.machine import launch
    from fastdeit.machine.device import choose_compute
    from fastdeit.machine.distributed import joined
    from fastdeit.models import make_model
    from fastdeit.pipelines.engines.synthetic import synthetic_index
    from fastdeit.pipelines.open import open_pipeline, pipeline_options, train_plan
    from fastdeit.pipelines.pace import (
        NUM_CLASSES,
        TrainingSteps,
        in_memory,
        is_taught,
        stand_in_teacher,
        usual_teacher,
        work_of,
    )
    from fastdeit.training.session import assemble

    size = {} if job.image_size is None else {"image_size": job.image_size}
    whole = changed(
        fill_recipe(job.recipe, Path("unused")), data={"batch_size": 2 * job.batch_size, **size}
    )
    own = changed(whole, data={"batch_size": job.batch_size})
    compute = choose_compute(job.kind, job.precision, launch.local_rank())
    with (
        joined(compute, MINUTES) as world,
        in_memory(job.batch_size, compute),
        world.explain_loss("The rows of the check are missing."),
    ):
        index = synthetic_index(max(256, 8 * job.batch_size), NUM_CLASSES)
        plan = train_plan(own.data, index, own.run)
        share = train_plan(whole.data, index, whole.run, world.rank, world.size)

        def model() -> torch.nn.Module:
            return make_model(own.model, NUM_CLASSES, own.data.image_size, own.run.seed)

        teacher = None
        if is_taught(own):
            teacher = compute.place(stand_in_teacher(own, NUM_CLASSES, usual_teacher(job.recipe)))
        alone = assemble(own, model(), teacher, compute)
        joint = assemble(whole, model(), teacher, compute, world)
        flops = work_of(own, alone.model, teacher, "")
        sizes = [value.numel() for value in joint.model.parameters() if value.requires_grad]
        gradient_bytes = 4 * sum(sizes)
        options = pipeline_options(own.data, compute.device)
        with (
            open_pipeline(index, plan, "synthetic", options) as batches,
            open_pipeline(index, share, "synthetic", options) as others,
        ):
            by_one = TrainingSteps(own, alone, batches)
            by_two = TrainingSteps(whole, joint, others)
            buckets = [
                torch.ones(size // 4, device=compute.device)
                for size in bucket_bytes(gradient_bytes)
            ]

            def average() -> None:
                for _ in range(job.num_averages):
                    for bucket in buckets:
                        world.sum_(bucket).mul_(0.5)
                compute.synchronize()

            def seconds(part: Callable[[], object]) -> float:
                """Of both: from when both begin until both are done."""
                world.barrier()
                started = time.perf_counter()
                part()
                world.barrier()
                return time.perf_counter() - started

            def alone_part() -> None:
                if world.is_main:
                    by_one.take(job.num_steps)

            rounds = []
            for number in range(job.rounds + 1):
                times = [
                    seconds(alone_part),
                    seconds(average),
                    seconds(lambda: by_one.take(job.num_steps)),
                    seconds(lambda: by_two.take(job.num_steps)),
                ]
                if number:  # the first one is the warm-up
                    rounds.append(times)
                if world.is_main:
                    on_round()
        # Their images differ: without the averaging their weights would too.
        norms = [value.norm().item() for value in joint.model.parameters()]
        world.check_alike("the weights of one model", f"{sum(norms)!r}", "This is a fault of ours.")
    if not world.is_main:
        return None
    return {
        "rounds": rounds,
        "gradient_bytes": gradient_bytes,
        "backward_frac": 2 * flops.eval_flops / flops.train_flops,
        "model": f"{own.model.model}, {own.data.image_size} px",
        "reason": compute.reason,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
