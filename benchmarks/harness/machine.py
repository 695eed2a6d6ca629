"""What is measured on: looked at in a process of its own, for the run itself touches no GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.harness.isolated import Part, PartFailed, Start, run_isolated
from fastdeit.benchmarks.harness.record import Record
from fastdeit.errors import RunError

LOOK_S = 180.0
"""Most that it takes: importing torch from a slow disk and waking a GPU."""
GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""One of them is there where a GPU is, its driver permitting."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, and where on it models run."""

    environment: dict[str, Any]
    """As `describe_environment` gives it, and `device`."""
    kind: str
    """Of the device: cpu or cuda."""
    start: Start = "forkserver"


def look_at(device: str, precision: str, call: Callable[..., Any] = run_isolated) -> Machine:
    """Look at this machine; `call` is `run_isolated`, or what stands for it.

    Raises:
        UserError: the device is not there, or cannot do the precision.
        RunError: it could not be looked at.
    """
    part = Part(
        name="looking at the machine",
        work=f"{__name__}:describe",
        options={"device": device, "precision": precision},
    )
    starts: tuple[Start, ...] = ("forkserver", "spawn")
    failed: PartFailed | None = None
    for start in starts:
        try:
            environment, kind = call(part, lambda _: None, limit_s=LOOK_S, start=start)
        except PartFailed as error:
            failed = failed or error
        else:
            if environment["gpu"] or device == "cpu" or start == starts[-1] or not _has_gpu_file():
                return Machine(environment, kind, start)
        if not _has_gpu_file():
            break
        # Perhaps a library woke the GPU while it was imported, before the process was forked.
    assert failed is not None
    if failed.is_user:
        raise UserError(str(failed))
    raise RunError(f"the machine could not be looked at: {failed}. See above.")


def _has_gpu_file() -> bool:
    """Whether a driver shows a GPU, without asking it."""
    return any(Path(name).exists() for name in GPU_FILES)


def describe(record: Record, device: str, precision: str) -> tuple[dict[str, Any], str]:
    """The environment, and the kind of the device that is chosen."""
    del record
    from fastdeit.machine.device import choose_compute
    from fastdeit.measured.environment import describe_environment

    chosen = choose_compute(device, precision).device
    return {**describe_environment(), "device": str(chosen)}, chosen.type


def in_words(environment: dict[str, Any]) -> list[str]:
    """Lines for a log: hardware, versions, what is missing."""
    gpu = environment.get("gpu") or "no GPU"
    watts = environment.get("gpu_power_limit_w")
    limit = "" if watts is None else f", {watts:g} W"
    cpu = f"{environment.get('cpu')}, {environment.get('num_cores')} cores"
    names = ("python", "torch", "cuda", "cudnn", "triton", "driver", "timm", "numpy", "pillow")
    found = [f"{name} {environment[name]}" for name in names if environment.get(name)]
    return [f"{gpu}{limit}; {cpu}; device {environment.get('device')}", ", ".join(found)]
