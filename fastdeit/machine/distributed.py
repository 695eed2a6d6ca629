"""Several processes that train one model: joining, agreeing, adding up, and noticing a lost one."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from fastdeit.errors import RunError, UserError
from fastdeit.machine import launch
from fastdeit.machine.device import Compute

LOST = ("connection", "timed out", "timeout", "peer", "socket", "gloo", "nccl", "process group")
"""Words of which an error of a collective operation has at least one."""

PATIENCE_S = 2.0
"""How long those that lost one wait for each other's word."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a job, as one of them sees them."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine."""
    _control: Any = None
    """A gloo group of all, for small numbers on the host."""
    _store: Any = None
    """What all can read and write, also while a collective operation hangs."""
    _heard: list[float] = field(default_factory=lambda: [0.0])

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place; it may be on any device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_on_host(self, tensor: Tensor) -> Tensor:
        """Add up a tensor on the CPU over all processes, in place, whatever the GPUs do."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self._control)
        return tensor

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        self.sum_on_host(torch.zeros(1))

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first, such as batch norm's running averages."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by their numbers; each must be able to be pickled."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self._control)
        return values

    def check_alike(self, what: str, value: str, way_out: str) -> None:
        """Raise a UserError with the values of all, on every process, unless all have the same."""
        values = self.gather(value)
        if len(set(values)) > 1:
            found = ", ".join(f"{each} in process {rank}" for rank, each in enumerate(values))
            raise UserError(f"{what} must be the same in all processes. Found: {found}. {way_out}")

    def wrap(self, model: nn.Module, accumulates: bool) -> nn.Module:
        """The model, or what averages its gradients over all processes in the backward pass.

        `accumulates` says whether some backward passes of a step will not do so; DDP cannot take
        the graph for static then.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            static_graph=not accumulates,
            gradient_as_bucket_view=True,
        )

    def heard(self, step: int) -> None:
        """Let the others know how far this process is; at most once a second."""
        now = time.monotonic()
        if self._store is not None and now - self._heard[0] >= 1:
            self._heard[0] = now
            self._store.set(f"step/{self.rank}", str(step))

    @contextmanager
    def explain_loss(
        self, way_out: str = "What was saved is as it was, and --resume auto goes on."
    ) -> Iterator[None]:
        """Turn the error of a collective operation into a RunError that says who is missing."""
        try:
            yield
        except RuntimeError as error:
            text = str(error).split("\n")[0]
            if self.size == 1 or not any(word in text.lower() for word in LOST):
                raise
            raise RunError(
                f"process {self.rank} lost another one. Found: {self._missing()}. Its own message "
                f"says why, if it could give one. {way_out} ({text.split('] ')[-1][:100]})"
            ) from error

    def _missing(self) -> str:
        """Which processes do not answer, in words; takes a few seconds."""
        try:
            self._store.set(f"lost/{self.rank}", "1")
            time.sleep(PATIENCE_S)
            silent = [rank for rank in range(self.size) if not self._store.check([f"lost/{rank}"])]
            steps = []
            for rank in silent:
                name = f"step/{rank}"
                at = self._store.get(name).decode() if self._store.check([name]) else "0"
                steps.append(f"no answer of process {rank}, last heard at step {at}")
            return ", ".join(steps) or "all answer again"
        except (RuntimeError, OSError):  # the store died with the process that kept it
            return "no answer of the first process"


@contextmanager
def joined(compute: Compute, timeout_minutes: float) -> Iterator[World]:
    """The processes that torchrun started together with this one; alone without torchrun.

    Gradients and sums on GPUs go through nccl, everything else through gloo. An operation of all
    waits `timeout_minutes` for the last of them. Raises UserError if torchrun's variables are there
    in part only.
    """
    size = launch.world_size()
    if size == 1:
        yield World()
        return
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise UserError(
            f"several processes must know each other. Found: WORLD_SIZE={size} without "
            f"{', '.join(missing)}. Start them with torchrun --nproc-per-node=N --no-python "
            "fastdeit train ..."
        )
    timeout = datetime.timedelta(minutes=timeout_minutes)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    # torchrun may keep its store when it starts the processes again, and their old addresses in it.
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    is_gpu = compute.device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if is_gpu else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=compute.device if is_gpu else None,
    )
    control = dist.new_group(backend="gloo", timeout=timeout)
    yield World(rank, size, launch.local_rank(), control, PrefixStore("fastdeit", store))
    # Not after an error: the group of a dead process may wait for it.
    dist.destroy_process_group()


class Votes:
    """Whether any process wants to stop, known to all in the same step.

    One number is added up over all processes in the background; its answer is read a step later,
    so that nobody waits.
    """

    def __init__(self, world: World, wants_stop: Callable[[], bool]) -> None:
        """Begin without a vote; each process must ask equally often."""
        self._world, self._wants_stop = world, wants_stop
        self._vote = torch.zeros(1)
        self._work: Any = None

    def ask(self) -> bool:
        """Whether all stop now."""
        if self._world.size == 1:
            return self._wants_stop()
        if self._work is not None:
            self._work.wait()
            if self._vote.item() > 0:
                return True
        self._vote = torch.full((1,), float(self._wants_stop()))
        self._work = dist.all_reduce(self._vote, group=self._world._control, async_op=True)
        return False


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"fastdeit: {message}\n")
