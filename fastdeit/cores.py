"""How many cores there are for us."""

import os

from fastdeit.launch import local_rank, local_world_size


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
