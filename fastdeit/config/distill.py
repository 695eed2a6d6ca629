"""The teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdeit.config.rules import Effect, Rule, check

TIMM = "timm:"
"""Before the name of a model whose weights timm fetches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Distillation (section 4 of the paper)."""

    distillation: Literal["none", "hard", "soft"] = "none"
    """What is learned of the teacher: hard, its decision (equation 3), or soft, its probabilities
    (equation 2). A model with a distillation token learns it there, any other by its only head."""
    teacher: Path | None = None
    """Checkpoint of the teacher, or timm:NAME for a model of timm with the weights that it
    fetches, such as timm:regnety_160.deit_in1k."""
    teacher_labels: Path | None = None
    """Folder of `fastdeit teach` in place of the teacher: what it said of the same images."""
    teacher_top_k: int = 0
    """Soft distillation from the k likeliest classes, the rest spread evenly; 0 for all."""
    temperature: float = 3.0
    """Divides both logits of soft distillation (tau)."""
    teacher_weight: float | None = None
    """Share of the teacher in the loss, 0 to 1; unless given 0.1 for soft (lambda) and 0.5 for
    hard, as in the paper."""
    teacher_smoothing: float = 0.0
    """Smoothing of the teacher's decision in hard distillation; the paper has none."""
    teacher_image_size: int | None = None
    """Side of the teacher's images in pixels; unless given those of the student."""

    def __post_init__(self) -> None:
        check(self, _RANGES, _RULES, _EFFECTS)

    @property
    def weight(self) -> float:
        """Share of the teacher in the loss."""
        if self.teacher_weight is not None:
            return self.teacher_weight
        return 0.1 if self.distillation == "soft" else 0.5

    @property
    def timm_teacher(self) -> str | None:
        """Name of the teacher for timm, if timm is to fetch it."""
        text = "" if self.teacher is None else str(self.teacher)
        return text.removeprefix(TIMM) if text.startswith(TIMM) else None


_RANGES = {
    "teacher_top_k": "[0, inf)",
    "temperature": "(0, inf)",
    "teacher_weight": "(0, 1]",
    "teacher_smoothing": "[0, 1)",
    "teacher_image_size": "[16, inf)",
}
_RULES: tuple[Rule, ...] = (
    *(
        (
            name,
            lambda c, name=name: c.distillation != "none" or getattr(c, name) is None,
            "has no effect without distillation",
            "Pass --distillation hard, or no teacher.",
        )
        for name in ("teacher", "teacher_labels")
    ),
    (
        "teacher",
        lambda c: c.distillation == "none" or c.teacher is not None or c.teacher_labels is not None,
        "is needed for --distillation {0.distillation}",
        "Pass --teacher RUN/checkpoint.pt, or --teacher-labels of `fastdeit teach`.",
    ),
    (
        "teacher_labels",
        lambda c: c.teacher is None or c.teacher_labels is None,
        "must come without a teacher that says the same ({0.teacher})",
        "Leave one of them out.",
    ),
    (
        "teacher_image_size",
        lambda c: c.teacher_image_size is None or c.teacher_labels is None,
        "has no effect with --teacher-labels, whose teacher was asked before",
        "Leave it out.",
    ),
)
_EFFECTS: tuple[Effect, ...] = tuple(
    (names, has_effect, f"--distillation {kind}", f"Pass --distillation {kind}")
    for names, has_effect, kind in (
        ("temperature teacher_top_k", lambda c: c.distillation == "soft", "soft"),
        ("teacher_weight teacher_image_size", lambda c: c.distillation != "none", "hard"),
        ("teacher_smoothing", lambda c: c.distillation == "hard", "hard"),
    )
)
