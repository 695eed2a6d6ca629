"""How OpenMP's threads wait: as the program wants, as the user wants, and as rows say."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fastdeit.machine.threads import POLICY, SPINCOUNT, SPINS, describe_waiting, limit_spinning
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


def test_openmp_hears_of_it() -> None:
    """Torch's own OpenMP library reports the program's setting, so it was made in time."""
    environment = {name: os.environ[name] for name in os.environ if name not in (POLICY, SPINCOUNT)}
    code = "import fastdeit.tools.cli, torch; print(torch.get_num_threads())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = dict(re.findall(r"(\w+) = '(\w+)'", ran.stderr))
    assert (said[POLICY], said[SPINCOUNT]) == ("PASSIVE", str(SPINS))
