"""The teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdeit.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Distillation through the token (section 4 of the paper)."""

    distillation: Literal["none", "hard"] = "none"
    """hard: the distillation head learns the teacher's decision (equation 3)."""
    teacher: Path | None = None
    """Checkpoint of the teacher, written by `fastdeit train`."""

    def __post_init__(self) -> None:
        if self.distillation == "none":
            require(
                self.teacher is None,
                "teacher",
                self.teacher,
                "has no effect without distillation",
                "Pass --distillation hard, or no teacher.",
            )
        else:
            require(
                self.teacher is not None,
                "teacher",
                None,
                f"is needed for --distillation {self.distillation}",
                "Pass --teacher RUN/checkpoint.pt.",
            )
