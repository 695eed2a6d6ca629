"""How long each part of a run of everything may take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastdeit.benchmarks.harness.isolated import Part

RESERVE = 0.05
"""Of the time, for charts and the report."""
OWN_LIMIT = {"cpu": 4.0, "cuda": 2.0}
"""A part that takes so many times its time is ended."""
LEAST_LIMIT_S = 120.0
"""On a CPU, where each part does the least that tells something, no part is ended before that."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A part of the run, before it is known how much time there is for it."""

    name: str
    """It, as it is said when it is left out."""
    topic: str
    """What --only and --skip call it."""
    parts: Callable[[float | None], list[Part]]
    """What is done in so many seconds, in turn; None sets no limit."""
    setup_s: float = 0.0
    """On a GPU: what comes before its first timed round, thought of an H100 with 16 cores; what
    others took corrects it."""
    least_s: float = 0.0
    """On a GPU: the timed rounds that it takes at least."""
    most_s: float = 0.0
    """On a GPU: its own limit."""
    weight: float = 0.0
    """On a CPU: its share of the time."""
    compiles: bool = False
    """Whether most of that is compiling."""
    needs_data: bool = False
    """Whether it reads photographs."""


@dataclass(slots=True)
class Clock:
    """Says how long each part may take."""

    limit_s: float | None
    """The whole time; None sets no limit."""
    kind: str = "cpu"
    begun: float = field(default_factory=lambda: time.perf_counter() - process_age_s())
    """When it began: with the process, whose imports count."""
    slowness: float = 1.0
    """How much longer setting up took here than was thought, in the last part that told."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.begun

    @property
    def left_s(self) -> float:
        """Seconds until the reserve."""
        assert self.limit_s is not None
        return max(0.0, (1 - RESERVE) * self.limit_s - self.elapsed_s)

    def share_s(self, one: Planned, later: list[Planned]) -> float | None:
        """Seconds for a part; None without a limit.

        On a GPU as many as its own limit, for the most telling come first; on a CPU its share of
        what is left, so that what one does not use is the others'.
        """
        if self.limit_s is None:
            return None
        if self.kind == "cuda":
            return min(one.most_s, self.left_s)
        return self.left_s * one.weight / (one.weight + sum(each.weight for each in later))

    def why_not(self, one: Planned) -> str | None:
        """Why there is no time for a part, by its own estimate; None if there is.

        On a CPU there always is: each does the least that tells something.
        """
        if self.limit_s is None or self.kind != "cuda":
            return None
        slowness = self.slowness if one.compiles else 1.0
        needs_s = slowness * one.setup_s + one.least_s
        if needs_s <= self.left_s:
            return None
        return f"it takes about {needs_s:.0f} s, and {self.left_s:.0f} s were left"

    def limit_of(self, share_s: float | None) -> float | None:
        """Seconds after which a part is ended."""
        if share_s is None:
            return None
        if self.kind == "cuda":
            return max(1.0, min(self.left_s, OWN_LIMIT["cuda"] * share_s))
        return max(LEAST_LIMIT_S, OWN_LIMIT["cpu"] * share_s)

    def learn(self, one: Planned, setup_s: float | None) -> None:
        """Correct the estimates by what setting up a part took, if its code was compiled anew."""
        if setup_s is not None and one.topic == "step" and one.compiles:
            self.slowness = setup_s / one.setup_s


def process_age_s() -> float:
    """How long this process has been running, as Linux says."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, float(Path("/proc/uptime").read_text().split()[0]) - started_s)
