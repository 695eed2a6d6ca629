"""What a number was measured on: hardware, versions, commit."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path
from typing import Any

from fastdeit import __version__
from fastdeit.machine.threads import describe_waiting, num_usable_cores

PACKAGES = ("torchvision", "triton", "timm", "numpy", "numba", "pillow", "ffcv", "webdataset")
MADE_OF_ROWS = ("benchmarks/results", "benchmarks/REPORT.md", "README.md")
"""What `make gpu` writes in a checkout."""
LAYERS = ("pipelines", "tools", "benchmarks")
"""Sub-packages whose files lie beside the package in a checkout, and in it when installed."""
DALI_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")


def describe_environment() -> dict[str, Any]:
    """Hardware, versions and commit of this process, as plain types for JSON.

    date, cpu, num_cores (usable ones), memory_gib, gpu (None without one), num_gpus,
    gpu_power_limit_w and driver (None where nvidia-smi says nothing), openmp_wait (how its threads
    wait; None leaves it to OpenMP), python, torch, cuda and cudnn (those that torch was built for),
    the versions of `PACKAGES` and dali (None where missing), fastdeit, commit and dirty (None
    outside a git checkout), source (None inside one): a digest of the program's files, by which
    `fastdeit bench keep` finds the commit.
    """
    import torch

    commit = describe_commit()
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
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(),
        **{name: _version(name) for name in PACKAGES},
        "dali": next(filter(None, map(_version, DALI_PACKAGES)), None),
        "fastdeit": __version__,
        **commit,
        "source": source_digest() if commit["commit"] is None else None,
    }


def describe_commit() -> dict[str, Any]:
    """The fields commit and dirty, of the checkout that this file is in; None outside of git.

    Kept rows and what is made of them are no changes of the program.
    """
    made = [f":(top,exclude){path}" for path in MADE_OF_ROWS]
    status = _git("status", "--porcelain", "--", ":(top)", *made)
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def source_digest() -> str:
    """A digest of the program's files, wherever they lie: a copy without git has the same."""
    digest = hashlib.sha256()
    for layer in ("", *LAYERS):
        spec = importlib.util.find_spec(f"fastdeit.{layer}" if layer else "fastdeit")
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent
        for file in sorted(folder.rglob("*.py")):
            path = file.relative_to(folder)
            if layer or path.parts[0] not in LAYERS:  # where they are installed
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{layer} {path.as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def _gpu_settings() -> dict[str, Any]:
    """Power limit in watts and driver of the first GPU; a capped GPU is another machine."""
    import torch

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


def _cudnn_version() -> int | None:
    """The version that torch loads; None where it cannot, which a run would meet itself."""
    import torch

    try:
        version: int | None = torch.backends.cudnn.version()
        return version
    except (RuntimeError, ValueError):
        return None


def _version(package: str) -> str | None:
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
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            return int(line.split()[1]) * 1024
    return 0
