"""What torchrun says of this process, in variables of the environment; alone without them.

Known before anything is joined, and without importing torch.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all of the job, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this one speaks for all and writes their files."""
    return rank() == 0
