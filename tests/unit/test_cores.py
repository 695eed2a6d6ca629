"""How many cores there are: affinity, and the quotas of control groups in every form they have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdeit.machine import threads
from fastdeit.machine.threads import COUNTS, limit_threads, num_usable_cores, users_environment

V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"
BESIDE = "9:name=systemd:/\n5:cpuset:/half\n3:memory:/\n"


def write(root: Path, files: dict[str, str]) -> None:
    """The files of /sys/fs/cgroup; "V1:QUOTA PERIOD" in a folder becomes its two files."""
    for name, text in files.items():
        place = root / name
        if place.name == "v1":
            for file, value in zip(V1, text.split(), strict=True):
                write(root, {str(Path(name).with_name(file)): value})
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /sys/fs/cgroup, on a machine of 64 cores."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return tmp_path / "fs"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        # Version 2: docker --cpus in a namespace of its own, half a core, none.
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "350000 100000"}, 4),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "20000000 100000"}, 64),
        ("0::/\n", {}, 64),
        # A service in a slice: the least of all above it.
        ("0::/a.slice/b\n", {"a.slice/cpu.max": "300000 100000", "a.slice/b/cpu.max": "max 1"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000"}, 64),
        # A container that sees only its own group, and the path outside.
        ("0::/docker/12ab\n", {"cpu.max": "600000 100000"}, 6),
        ("0::/../../other\n", {"cpu.max": "600000 100000", "other/cpu.max": "100000 100000"}, 6),
        # Version 1, named by all controllers, by one, or with the path outside.
        (f"{BESIDE}4:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/v1": "250000 50000"}, 5),
        (f"{BESIDE}4:cpuacct,cpu:/a/b\n", {"cpu/a/v1": "700000 100000", "cpu/a/b/v1": "-1 1"}, 7),
        (f"{BESIDE}4:cpu,cpuacct:/docker/12ab\n", {"cpu/v1": "900000 100000"}, 9),
        (f"{BESIDE}4:cpu:/\n", {"cpu/v1": "-1 100000"}, 64),
        # Both: the controller is in one of them.
        (f"{BESIDE}1:cpu:/\n0::/\n", {"cpu/v1": "300000 100000"}, 3),
        ("4:memory:/\n0::/a\n", {"unified/a/cpu.max": "300000 100000"}, 3),
        # Another controller's group, and what is no such file.
        ("5:cpuset:/a\n", {"cpuset/a/v1": "100000 100000"}, 64),
        ("nothing\n\n0::/\n", {"cpu.max": ""}, 64),
        ("0::/\n", {"cpu.max": "100000 0"}, 64),
    ],
)
def test_quotas(own: str, files: dict[str, str], cores: int, root: Path) -> None:
    """The least quota of the process's own group and those around it counts, rounded up."""
    threads.OWN_CGROUPS.write_text(own)
    write(root, files)
    assert num_usable_cores() == cores


def test_affinity_below_a_quota(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The less of both counts; without control groups affinity alone."""
    assert num_usable_cores() == 64
    threads.OWN_CGROUPS.write_text("0::/\n")
    write(root, {"cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert num_usable_cores() == 2


def test_libraries_hear_of_a_quota(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, which passes them on; not without a quota, nor against a user."""
    monkeypatch.setattr(os, "environ", {"HOME": "/root"})
    monkeypatch.setattr(threads, "_counts_of_ours", set())
    limit_threads()
    assert not set(COUNTS) & set(os.environ)
    threads.OWN_CGROUPS.write_text("0::/\n")
    write(root, {"cpu.max": "4000000 100000"})
    os.environ["NUMBA_NUM_THREADS"] = "50"
    limit_threads()
    assert [os.environ[name] for name in COUNTS] == ["40", "50", "32"]
    assert users_environment() == {"HOME": "/root", "NUMBA_NUM_THREADS": "50"}
