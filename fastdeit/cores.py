"""How many cores there are for us."""

import os


def num_usable_cores() -> int:
    """How many cores this process may use: its affinity, not the host's count.

    A scheduler or container gives a job fewer cores than the machine has (ffcv#357, ffcv#382).
    """
    return len(os.sched_getaffinity(0))
