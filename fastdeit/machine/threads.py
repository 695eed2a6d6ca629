"""How many threads there may be, and how OpenMP's, which are torch's on a CPU, wait for work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastdeit.machine.launch import local_rank, local_world_size

POLICY, SPINCOUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPINS = 10_000
"""A tenth of a millisecond to half of one, as long as a processor's pause takes. It bridges the
gap between two operations of a forward pass, where waking a thread would cost more than the work
(DeiT-Ti on one image, 2 cores: 30 img/s without, 53 with it, 53 with OpenMP's own 300,000)."""

COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
"""What tells OpenMP, numba and torch's compiler how many threads or processes to start."""
OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_counts_of_ours: set[str] = set()


def limit_spinning() -> None:
    """Let threads that wait spin for a moment and then sleep; what a user has set stays.

    By OpenMP's own choice they spin for many times that long, and take the core from whoever works:
    from decoding threads, and from a second process on the same cores, which then runs at half its
    speed. It holds if nothing has loaded OpenMP yet, and for the processes that this one starts.
    """
    if POLICY not in os.environ and SPINCOUNT not in os.environ:
        # For OpenMP libraries other than GNU's, which do not know of spins, sleeping at once.
        os.environ.update({POLICY: "PASSIVE", SPINCOUNT: str(SPINS)})


def describe_waiting() -> str | None:
    """The setting in words, such as "PASSIVE, 10000 spins"; None if OpenMP chooses."""
    words = {POLICY: "{}", SPINCOUNT: "{} spins"}
    said = [form.format(os.environ[name]) for name, form in words.items() if name in os.environ]
    return ", ".join(said) or None


def limit_threads() -> None:
    """Tell libraries that count cores of how many this process has the time.

    They see its affinity and no quota. What a user has set stays. It holds for what is imported
    later, and for the processes that this one starts.
    """
    cores = num_usable_cores()
    if cores < len(os.sched_getaffinity(0)):
        # As many processes as torch's compiler takes at most, by itself.
        counts = dict.fromkeys(COUNTS, str(cores)) | {COUNTS[2]: str(min(cores, 32))}
        _counts_of_ours.update(counts.keys() - os.environ.keys())
        os.environ.update({name: counts[name] for name in _counts_of_ours})


def users_environment() -> dict[str, str]:
    """The environment without what `limit_threads` set, for a program that shares cores itself."""
    return {name: value for name, value in os.environ.items() if name not in _counts_of_ours}


def num_usable_cores() -> int:
    """How many cores this process may use, at least one: not the host's count.

    A scheduler gives a job fewer cores than the machine has, by affinity (ffcv#357, ffcv#382), and
    a container less time than they have, by a quota of its control group or one around it
    (loky#111, cpython#80235); a part of a core counts as one.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas()]))


def _quotas() -> Iterator[int]:
    """The cores that the control groups of this process have the time of, rounded up."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "-", "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has no controllers here; beside version 1 it is mounted below.
        for name in (controllers, "cpu") if controllers else ("", "unified"):
            # Outside of what is mounted a path begins with "..", or is not there; what is mounted
            # is the group of the container then.
            parts = path.strip("/").split("/")
            inside = [] if ".." in parts else parts
            for depth in range(len(inside) + 1):
                yield from _quota_of(CGROUPS.joinpath(name, *inside[:depth]))


def _quota_of(group: Path) -> Iterator[int]:
    """The quota of one control group, if it has one."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / file).read_text() for file in files).split()
            if int(quota) > 0:  # -1 is none in version 1, "max" in version 2
                yield -(-int(quota) // int(period))
        except (OSError, ValueError, ZeroDivisionError):
            pass


def num_rank_cores() -> int:
    """This rank's share of the usable cores, at least one.

    torchrun starts the ranks of a machine with one affinity and says how many they are; `srun`
    binds each task to cores of its own and sets neither of these variables.
    """
    ranks = local_world_size()
    rank = local_rank()
    cores = num_usable_cores()
    return max(1, cores // ranks + (rank < cores % ranks))
