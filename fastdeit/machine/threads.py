"""How OpenMP's threads, which are torch's on a CPU, wait for work."""

from __future__ import annotations

import os

from fastdeit.machine.launch import local_rank, local_world_size

POLICY, SPINCOUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPINS = 10_000
"""A tenth of a millisecond to half of one, as long as a processor's pause takes. It bridges the
gap between two operations of a forward pass, where waking a thread would cost more than the work
(DeiT-Ti on one image, 2 cores: 30 img/s without, 53 with it, 53 with OpenMP's own 300,000)."""


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


def num_usable_cores() -> int:
    """How many cores this process may use: its affinity, not the host's count.

    A scheduler or container gives a job fewer cores than the machine has (ffcv#357, ffcv#382).
    """
    return len(os.sched_getaffinity(0))


def num_rank_cores() -> int:
    """This rank's share of the usable cores, at least one.

    torchrun starts the ranks of a machine with one affinity and says how many they are; `srun`
    binds each task to cores of its own and sets neither of these variables.
    """
    ranks = local_world_size()
    rank = local_rank()
    cores = num_usable_cores()
    return max(1, cores // ranks + (rank < cores % ranks))
