"""The teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdeit.errors import require, require_effect

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
        if self.distillation == "none":
            for name in ("teacher", "teacher_labels"):
                require(
                    getattr(self, name) is None,
                    name,
                    getattr(self, name),
                    "has no effect without distillation",
                    "Pass --distillation hard, or no teacher.",
                )
        else:
            require(
                self.teacher is not None or self.teacher_labels is not None,
                "teacher",
                None,
                f"is needed for --distillation {self.distillation}",
                "Pass --teacher RUN/checkpoint.pt, or --teacher-labels of `fastdeit teach`.",
            )
            require(
                self.teacher is None or self.teacher_labels is None,
                "teacher_labels",
                self.teacher_labels,
                f"must come without a teacher that says the same ({self.teacher})",
                "Leave one of them out.",
            )
        require(
            self.teacher_image_size is None or self.teacher_labels is None,
            "teacher_image_size",
            self.teacher_image_size,
            "has no effect with --teacher-labels, whose teacher was asked before",
            "Leave it out.",
        )
        is_on, is_soft = self.distillation != "none", self.distillation == "soft"
        for name, has_effect, kind in (
            ("temperature", is_soft, "soft"),
            ("teacher_weight", is_on, "hard"),
            ("teacher_smoothing", is_on and not is_soft, "hard"),
            ("teacher_image_size", is_on, "hard"),
            ("teacher_top_k", is_soft, "soft"),
        ):
            option = f"--distillation {kind}"
            require_effect(self, name, has_effect, option, f"Pass {option}")
        require(
            self.temperature > 0,
            "temperature",
            self.temperature,
            "must be above 0",
            "Pass --temperature 3.",
        )
        require(
            self.teacher_top_k >= 0,
            "teacher_top_k",
            self.teacher_top_k,
            "must be 0 or more",
            "Pass --teacher-top-k 10, or 0 for all classes.",
        )
        require(
            self.teacher_weight is None or 0 < self.teacher_weight <= 1,
            "teacher_weight",
            self.teacher_weight,
            "must be above 0 and at most 1",
            "Pass --teacher-weight 0.5, or --distillation none.",
        )
        require(
            0 <= self.teacher_smoothing < 1,
            "teacher_smoothing",
            self.teacher_smoothing,
            "must be at least 0 and below 1",
            "Pass --teacher-smoothing 0.1.",
        )
        require(
            self.teacher_image_size is None or self.teacher_image_size >= 16,
            "teacher_image_size",
            self.teacher_image_size,
            "must be at least 16",
            "Pass --teacher-image-size 224.",
        )

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
