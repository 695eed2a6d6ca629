"""What is aimed at on one H200 with 16 cores, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastdeit.benchmarks.cases.loaders import COPIES
from fastdeit.benchmarks.cases.step import PUBLISHED_FILES, STEP
from fastdeit.benchmarks.reporting.markdown import escaped, percent, times
from fastdeit.measured.rows import Kept, Row
from fastdeit.text.figures import rounded

GPU, CORES = "H200", 16
MODELS = {
    "DeiT-B": "deit_base_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "DeiT-Ti": "deit_tiny_patch16_224",
}
"""timm's names of the models with a target."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is aimed at."""

    what: str
    """Of what."""
    least: float
    """What it must be at least."""
    text: Callable[[float], str]
    """Writes such a figure."""
    of: Callable[[Row], float | None]
    """The figure of a row; None if it says nothing of it."""

    def lines(self, kept: list[Kept]) -> list[str]:
        """Cells: what, the target, what is measured, whether that is enough."""
        found = best(self, [each for each in kept if is_target(each.environment)])
        cells = [self.what, f"at least {self.text(self.least)}"]
        if found is not None:
            value, each = found
            is_met = "yes" if value >= self.least else "no"
            return [*cells, f"{self.text(value)} ({described(each)})", is_met]
        found = best(self, [each for each in kept if each.environment.get("gpu")])
        elsewhere = ""
        if found is not None:
            value, each = found
            elsewhere = f"; elsewhere {self.text(value)} ({described(each)})"
        return [*cells, f"not measured{elsewhere}", "n/a"]


def best(target: Target, kept: list[Kept]) -> tuple[float, Kept] | None:
    """The figure of the fastest row that has it; of equal ones the first."""
    found = [(each.row.median, target.of(each.row), each) for each in kept]
    figures = [(median, value, each) for median, value, each in found if value is not None]
    if not figures:
        return None
    _, value, each = max(figures, key=lambda figure: figure[0])
    return value, each


def is_target(environment: dict[str, Any]) -> bool:
    """Whether the targets are for this machine."""
    return GPU in str(environment.get("gpu")) and environment.get("num_cores") == CORES


def described(kept: Kept) -> str:
    """What a figure is of, briefly."""
    row, environment = kept.row, kept.environment
    batch = f", batch {row.batch_size}" if row.batch_size else ""
    hardware = f"{environment.get('gpu')}, {environment.get('num_cores')} cores"
    return escaped(f"{row.name}{batch}; {hardware}; n {row.n}")


def trains(row: Row, model: str) -> bool:
    """Whether it is our training from files with this model as the paper trains it."""
    is_alike = row.model == MODELS[model] and row.image_size in (None, 224)
    return is_alike and row.name.startswith(f"{STEP} from files")


def rate(model: str) -> Callable[[Row], float | None]:
    """The rate of training end to end."""
    return lambda row: row.median if trains(row, model) else None


def against(model: str, baseline: str) -> Callable[[Row], float | None]:
    """The ratio of training end to end to something else."""
    return lambda row: row.all_ratios.get(baseline) if trains(row, model) else None


def loader(row: Row) -> float | None:
    """The rate of a loader of ours alone, each decode shown three times."""
    is_ours = row.name.startswith("fastdeit") and row.name.endswith(COPIES[3])
    return row.median if row.case == f"loaders, {CORES} cores" and is_ours else None


def img_per_s(value: float) -> str:
    """A rate."""
    return f"{rounded(value)} img/s"


def factor(value: float) -> str:
    """A ratio."""
    return f"x {times(value)}"


TARGETS = (
    Target("DeiT-B training, end to end", 3_800, img_per_s, rate("DeiT-B")),
    Target("DeiT-S training, end to end", 11_000, img_per_s, rate("DeiT-S")),
    Target("DeiT-Ti training, end to end", 25_000, img_per_s, rate("DeiT-Ti")),
    Target("DeiT-B from files against synthetic", 0.97, percent, against("DeiT-B", STEP)),
    Target("DeiT-S from files against synthetic", 0.97, percent, against("DeiT-S", STEP)),
    Target("DeiT-Ti from files against synthetic", 0.90, percent, against("DeiT-Ti", STEP)),
    Target(f"loader alone, 3 copies, {CORES} cores", 40_000, img_per_s, loader),
    Target(
        "DeiT-B from files against the published loop with its own loader",
        3,
        factor,
        against("DeiT-B", PUBLISHED_FILES),
    ),
    Target(
        "DeiT-Ti from files against the published loop with its own loader",
        8,
        factor,
        against("DeiT-Ti", PUBLISHED_FILES),
    ),
)
