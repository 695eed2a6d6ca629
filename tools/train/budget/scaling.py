"""How fast many GPUs train, on paper: from the step of one, and what nodes are taken for.

Nothing here is measured, and nothing imports torch. The model of a step is that of data-parallel
training: every GPU computes its share, and the gradients are averaged over all of them in buckets,
while the backward pass still computes the next ones (PyTorch's DDP). A loader and a disk that
cannot follow slow all of it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal

from fastdeit.errors import require

FIRST_BUCKET_BYTES, BUCKET_BYTES = 2**20, 25 * 2**20
"""Source: torch.nn.parallel.DistributedDataParallel, bucket_cap_mb and its smaller first bucket."""
PAGE_CACHE_FRAC = 0.5
"""How much of a node's memory may hold the data set."""

Limit = Literal["compute", "communication", "loader", "disk"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OneGPU:
    """What is known of one GPU, or of one device that is no GPU."""

    rates: tuple[tuple[int, float], ...]
    """(images a step, images a second) of training, by rising batch."""
    what: str
    """Where they come from."""
    backward_frac: float | None = None
    """Part of a step's time in the backward pass; None if only its operations are known."""
    loader_img_per_s: float | None = None
    """Samples a second of the loader on one core, copies counted; None never makes a GPU wait."""
    loader_what: str = ""
    """Where that comes from."""

    def step_s(self, batch_size: int) -> float:
        """Seconds of a step: linear between measured batches, as many images a second beyond."""
        steps = [(size, size / rate) for size, rate in self.rates]
        for (low, low_s), (high, high_s) in pairwise(steps):
            if low <= batch_size <= high:
                return low_s + (high_s - low_s) * (batch_size - low) / (high - low)
        size, seconds = steps[0] if batch_size < steps[0][0] else steps[-1]
        return seconds * batch_size / size

    def is_between(self, batch_size: int) -> bool:
        """Whether the batch lies within those that were measured."""
        return self.rates[0][0] <= batch_size <= self.rates[-1][0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the nodes are taken for; all of it is assumed."""

    name: str
    """Of the preset."""
    gpus_per_node: int
    """GPUs of a node."""
    link_gb_s: float
    """What a GPU sends to the others of its node, in 1e9 bytes a second."""
    network_gb_s: float
    """What a node sends to the others, all its adapters together, in 1e9 bytes a second."""
    latency_us: float
    """Of a hop from GPU to GPU."""
    cores_per_node: int
    """That decode; each GPU gets its share of them."""
    memory_gib: float
    """Of a node."""
    disk_gb_s: float
    """What a node reads from its own disks, in 1e9 bytes a second."""
    sources: tuple[str, ...] = ()
    """Where the figures come from, a line each."""


MACHINES = {
    "hopper": Machine(
        name="hopper",
        gpus_per_node=8,
        link_gb_s=360,
        network_gb_s=320,
        latency_us=5,
        cores_per_node=112,
        memory_gib=2048,
        disk_gb_s=10,
        sources=(
            "a node is a DGX H100 or H200: 8 GPUs, NVLink of 450 GB/s each way a GPU, 8 adapters "
            "of 400 Gb/s, 112 cores, 2 TB (NVIDIA's data sheets)",
            "of its links 80% are reached, a hop takes 5 us, its disks read 10 GB/s (taken, from "
            "no source)",
        ),
    ),
    "v100": Machine(
        name="v100",
        gpus_per_node=8,
        link_gb_s=120,
        network_gb_s=40,
        latency_us=10,
        cores_per_node=40,
        memory_gib=512,
        disk_gb_s=2,
        sources=(
            "a node is a DGX-1: 8 V100, NVLink of 150 GB/s each way a GPU, 4 adapters of 100 Gb/s,"
            " 40 cores, 512 GB (NVIDIA's data sheet); the paper says no more of its own than V100",
            "of its links 80% are reached, a hop takes 10 us, its disks read 2 GB/s (taken, from "
            "no source)",
        ),
    ),
}
"""Nodes by their names on the command line."""


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
            UserError: one is absurd.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in given.items():
            least = 0 if name == "latency_us" else 1e-3
            rule = f"must be from {least:g} to 1e9"
            option = name.replace("_", "-")
            require(least <= value <= 1e9, name, value, rule, f"Leave out --{option}.")
        if not given:
            return machine
        changed = ", ".join(f"{name} {value:g}" for name, value in given.items())
        sources = (*machine.sources, f"but as given: {changed}")
        return replace(machine, name=f"{machine.name} changed", sources=sources, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a whole run does."""

    step_images: int
    """Images of a step over all GPUs."""
    steps_per_epoch: int
    """How many."""
    epochs: int
    """How many."""
    gradient_bytes: int
    """That the GPUs average in each step."""
    backward_frac: float
    """Part of a step's operations in the backward pass, where its time is not known."""
    set_images: int = 0
    """Images that lie on the disk."""
    image_bytes: float = 0.0
    """Of one of them."""
    copies: int = 1
    """Samples that an image gives when it is read once."""
    eval_images: int = 0
    """Images of all evaluations together."""
    eval_frac: float = 1 / 3
    """An evaluated image's operations over those of a trained one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A step of so many GPUs, and the run that it is part of. Of one GPU only the step is known."""

    num_gpus: int
    """How many."""
    batch_size: int
    """The most images of a step that one GPU gets."""
    compute_s: float
    """What a GPU computes in a step."""
    all_reduce_s: float
    """The averaging of the gradients, if nothing else went on."""
    exposed_s: float
    """What of it the backward pass does not hide."""
    wait_s: float
    """What a step waits for the loader, or for a disk that never rests."""
    step_s: float
    """All of it."""
    img_per_s: float
    """Over all GPUs, when the page cache holds the set or never will."""
    efficiency_frac: float
    """That over as many times what one GPU does with all images of a step, or its largest batch."""
    limit: Limit
    """What is busy all the time."""
    first_img_per_s: float
    """Over all GPUs, while the set comes from the disk."""
    first_limit: Limit
    """The same for those epochs."""
    train_hours: float
    """All steps."""
    eval_hours: float
    """All evaluations."""

    @property
    def hours(self) -> float:
        """The whole run."""
        return self.train_hours + self.eval_hours


def predict(gpu: OneGPU, run: Run, machine: Machine, num_gpus: int) -> Prediction:
    """Predict a run on so many GPUs; where they fill several nodes, the nodes are full."""
    images = run.step_images
    batch_size = -(-images // num_gpus)  # an equal part, rounded up
    num_nodes = -(-num_gpus // machine.gpus_per_node)
    # ---- the step ------------------------------------------------------------------------------
    compute_s = gpu.step_s(batch_size)
    backward_frac = run.backward_frac if gpu.backward_frac is None else gpu.backward_frac
    times = [
        (size, _average_s(size, num_gpus, num_nodes, machine))
        for size in bucket_bytes(run.gradient_bytes)
    ]
    all_reduce_s = sum(seconds for _, seconds in times)
    exposed_s = unhidden_s(times, backward_frac * compute_s)
    busy_s = compute_s + exposed_s
    own: Limit = "communication" if all_reduce_s > backward_frac * compute_s else "compute"
    # ---- what it waits for ---------------------------------------------------------------------
    loader_s = 0.0
    if gpu.loader_img_per_s is not None:
        cores = num_gpus * machine.cores_per_node / machine.gpus_per_node
        loader_s = images / (cores * gpu.loader_img_per_s)
    disk_s = images / run.copies * run.image_bytes / (num_nodes * machine.disk_gb_s * 1e9)
    fits = run.set_images * run.image_bytes <= PAGE_CACHE_FRAC * machine.memory_gib * 2**30

    def longest(disk_s: float) -> tuple[float, Limit]:
        """The longest of what goes on at the same time, and what it is."""
        named: list[tuple[float, Limit]] = [(busy_s, own), (loader_s, "loader"), (disk_s, "disk")]
        return max(named, key=lambda one: one[0])

    first_s, first_limit = longest(disk_s)
    step_s, limit = longest(0.0) if fits else (first_s, first_limit)
    # ---- the run -------------------------------------------------------------------------------
    # An epoch reads one image for all its copies, so the set is read after as many epochs.
    first_epochs = min(run.copies, run.epochs) if fits else 0
    train_s = first_epochs * first_s + (run.epochs - first_epochs) * step_s
    alone = min(images, gpu.rates[-1][0])
    return Prediction(
        num_gpus=num_gpus,
        batch_size=batch_size,
        compute_s=compute_s,
        all_reduce_s=all_reduce_s,
        exposed_s=exposed_s,
        wait_s=step_s - busy_s,
        step_s=step_s,
        img_per_s=images / step_s,
        efficiency_frac=images / step_s / (num_gpus * alone / gpu.step_s(alone)),
        limit=limit,
        first_img_per_s=images / first_s,
        first_limit=first_limit,
        train_hours=run.steps_per_epoch * train_s / 3600,
        eval_hours=run.eval_images * run.eval_frac * step_s / images / 3600,
    )


def bucket_bytes(gradient_bytes: int) -> list[int]:
    """Bytes of the buckets in which DDP averages the gradients, in the order of the backward pass.

    Its buckets end with whole tensors; here they are cut to the byte.
    """
    sizes, left, cap = [], gradient_bytes, FIRST_BUCKET_BYTES
    while left > 0:
        sizes.append(min(left, cap))
        left -= sizes[-1]
        cap = BUCKET_BYTES
    return sizes


def _average_s(num_bytes: int, num_gpus: int, num_nodes: int, machine: Machine) -> float:
    """Seconds of averaging so many bytes over all GPUs.

    Each sends 2 (N - 1) / N of them, which is the least (Patarasuk and Yuan, 2009), at the rate of
    the slowest link. A message hops along the GPUs of a node and through a tree of nodes, there and
    back, as NCCL sends it between nodes.
    """
    if num_gpus == 1:
        return 0.0
    gb_s = machine.link_gb_s if num_nodes == 1 else min(machine.link_gb_s, machine.network_gb_s)
    hops = 2 * (min(num_gpus, machine.gpus_per_node) - 1 + math.ceil(math.log2(num_nodes)))
    sent_bytes = 2 * (num_gpus - 1) / num_gpus * num_bytes
    return sent_bytes / (gb_s * 1e9) + hops * machine.latency_us * 1e-6


def unhidden_s(buckets: list[tuple[int, float]], backward_s: float) -> float:
    """Seconds by which the averaging ends after the backward pass, which takes `backward_s`.

    A bucket, (bytes, seconds), is sent when it is complete and the one before it is through.
    Gradients come as evenly over the backward pass as their bytes.
    """
    total, made, through_s = sum(size for size, _ in buckets), 0, 0.0
    for size, seconds in buckets:
        made += size
        through_s = max(through_s, backward_s * made / total) + seconds
    return max(0.0, through_s - backward_s)
