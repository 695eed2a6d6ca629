"""A trace of some steps with their parts, as Chrome's viewer and Perfetto read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fastdeit.machine.device import Compute
from fastdeit.measured.phases import marking

TRACE = "trace.json.gz"
"""The trace of a run, in its folder."""
WARM_UP = 5
"""Steps before the first that is traced: compiling, and the allocator's first calls."""


@contextlib.contextmanager
def traced_steps(
    path: Path | None, num_steps: int, compute: Compute, warm_up: int = WARM_UP
) -> Iterator[Callable[[], None]]:
    """Trace steps by torch's profiler; the parts are NVTX ranges too, for Nsight.

    `path` is a .json or .json.gz, written after the last step or at the end of the block; None
    traces nothing. Before the steps come `warm_up` others, of which the last is profiled and thrown
    away. Yields what is to be called after each step.
    """
    if path is None:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if compute.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(
        skip_first=warm_up - 1, wait=0, warmup=1, active=num_steps, repeat=1
    )

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(path))

    with (
        marking(compute.device),
        torch.profiler.profile(
            activities=activities, schedule=schedule, on_trace_ready=write
        ) as profiler,
    ):
        yield profiler.step
