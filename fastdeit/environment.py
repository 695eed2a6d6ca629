"""What a number was measured on: hardware, versions, commit."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from fastdeit import __version__
from fastdeit.cores import num_usable_cores
from fastdeit.openmp import describe_waiting

PACKAGES = {"timm": "timm", "numpy": "numpy", "numba": "numba", "pillow": "pillow", "ffcv": "ffcv"}
DALI_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")


def describe_environment() -> dict[str, Any]:
    """Hardware, versions and commit of this process, as plain types for JSON.

    Returns:
        date, cpu, num_cores (usable ones), memory_gib, gpu (None without one), num_gpus,
        gpu_power_limit_w and driver (None where nvidia-smi says nothing), openmp_wait (how its
        threads wait; None leaves it to OpenMP), python, torch, the versions of timm, numpy, numba,
        pillow, ffcv and dali (None where missing), fastdeit, commit and dirty (None outside a git
        checkout).
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    status = _git("status", "--porcelain")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_name(),
        "num_cores": num_usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "num_gpus": torch.cuda.device_count(),
        **_gpu_settings(),
        "openmp_wait": describe_waiting(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(package) for name, package in PACKAGES.items()},
        "dali": next(filter(None, map(_version, DALI_PACKAGES)), None),
        "fastdeit": __version__,
        "commit": commit,
        "dirty": None if status is None else bool(status),
    }


def _gpu_settings() -> dict[str, Any]:
    """Power limit in watts and driver of the first GPU; a capped GPU is another machine."""
    watts, driver = None, None
    if torch.cuda.is_available():
        said = _said(
            "nvidia-smi", "--query-gpu=power.limit,driver_version", "--format=csv,noheader"
        )
        power, _, version = (said or "").split("\n")[0].partition(",")
        driver = version.strip() or None
        with contextlib.suppress(ValueError):
            watts = float(power.replace("W", ""))
    return {"gpu_power_limit_w": watts, "driver": driver}


def _version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this file is in; None where it is in none."""
    return _said("git", *arguments)


def _said(*line: str) -> str | None:
    """What a program prints, run beside this file; None if it cannot."""
    try:
        return subprocess.run(
            line,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    """The processor's name as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_bytes() -> int:
    """The machine's memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            return int(line.split()[1]) * 1024
    return 0
