"""How OpenMP's threads wait: as the program wants, as the user wants, and as rows say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastdeit.machine.threads import (
    COUNTS,
    POLICY,
    SPINCOUNT,
    SPINS,
    describe_waiting,
    limit_spinning,
)
from fastdeit.measured.environment import describe_environment


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        ({}, {POLICY: "PASSIVE", SPINCOUNT: str(SPINS)}, f"PASSIVE, {SPINS} spins"),
        ({POLICY: "ACTIVE"}, {POLICY: "ACTIVE"}, "ACTIVE"),
        ({SPINCOUNT: "7"}, {SPINCOUNT: "7"}, "7 spins"),
    ],
)
def test_a_user_decides(
    asked: dict[str, str], found: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set already stays alone; rows of a benchmark say what held."""
    for name in (POLICY, SPINCOUNT):
        monkeypatch.delenv(name, raising=False)
    assert describe_waiting() is None
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    limit_spinning()
    assert {name: os.environ[name] for name in (POLICY, SPINCOUNT) if name in os.environ} == found
    assert describe_waiting() == describe_environment()["openmp_wait"] == words


QUOTA_OF_ONE = """
import os, sys
from pathlib import Path
from fastdeit.machine import threads
threads.CGROUPS = Path(sys.argv[1])
threads.OWN_CGROUPS = threads.CGROUPS / "own"
os.sched_getaffinity = lambda _: {0, 1, 2}
import fastdeit.tools.cli, numba, torch
print(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
"""


def test_libraries_hear_of_it(tmp_path: Path) -> None:
    """Torch's own OpenMP library reports the program's setting, so it was made in time.

    Neither it nor numba starts more threads than a container's quota has time for.
    """
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    ours = {POLICY, SPINCOUNT, *COUNTS}
    ran = subprocess.run(
        [sys.executable, "-c", QUOTA_OF_ONE, str(tmp_path)],
        env={k: v for k, v in os.environ.items() if k not in ours} | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = dict(re.findall(r"(\w+) = '(\w+)'", ran.stderr))
    assert (said[POLICY], said[SPINCOUNT]) == ("PASSIVE", str(SPINS))
    assert ran.stdout.split() == ["1", "1"]
