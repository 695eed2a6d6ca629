"""Everything that decides a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastdeit.config.augment import AugmentConfig
from fastdeit.config.data import DataConfig
from fastdeit.config.distill import DistillConfig
from fastdeit.config.model import ModelConfig
from fastdeit.config.optim import OptimConfig
from fastdeit.config.run import RunConfig
from fastdeit.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides a run."""

    data: DataConfig
    model: ModelConfig
    run: RunConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    init_from: Path | None = None
    """Begin with the weights of this checkpoint (fine-tuning): position embeddings are resized,
    heads for other classes begin anew."""
    init_weights: Literal["raw", "ema"] = "raw"
    """Which of its weights: raw, as they were trained, or ema, their moving average."""
    dry_run: bool = False
    """Print the resolved configuration and what follows from it, and stop."""

    def __post_init__(self) -> None:
        if self.augment.cutmix_minmax is not None:
            low, high = (int(self.data.image_size * side) for side in self.augment.cutmix_minmax)
            require(
                low < high,
                "cutmix_minmax",
                self.augment.cutmix_minmax,
                f"must leave a side to choose at {self.data.image_size} pixels",
                "Pass --cutmix-minmax 0.2 0.8, say.",
            )
        require(
            self.optim.loss != "bce" or self.augment.smoothing == 0,
            "smoothing",
            self.augment.smoothing,
            "must be 0 with --loss bce, for which every label above 0 is a whole one",
            "Pass --smoothing 0.",
        )
        require(
            self.data.sampling == "natural" or self.run.compat == "none",
            "sampling",
            self.data.sampling,
            "must be natural with --compat upstream, for the published code has no other",
            "Leave one of them out.",
        )
        require(
            self.optim.class_weights == "none"
            or self.distill.distillation == "none"
            or self.distill.weight < 1,
            "class_weights",
            self.optim.class_weights,
            "has no effect with --teacher-weight 1, which leaves the labels out",
            "Leave one of them out.",
        )
        require(
            self.optim.accumulate <= self.data.batch_size,
            "accumulate",
            self.optim.accumulate,
            f"must be at most the images of a step ({self.data.batch_size})",
            "Pass a smaller --accumulate.",
        )
        require(
            not (self.model.is_distilled and self.distill.distillation == "none"),
            "distillation",
            "none",
            f"must be on for the distilled model {self.model.model}",
            "Pass --distillation hard --teacher PATH, or a model without the token.",
        )

        require(
            self.init_weights == "raw" or self.init_from is not None,
            "init_weights",
            self.init_weights,
            "has no effect without a checkpoint to begin with",
            "Pass --init-from RUN/checkpoint.pt, or leave it out.",
        )
        if self.optim.trainable == "classifier":
            self._check_frozen()

    def _check_frozen(self) -> None:
        """Refuse what could not act, because it is frozen."""
        frozen = "has no effect with --trainable classifier, which freezes what it acts on"
        for name, value in (
            ("drop_path", self.model.drop_path),
            ("dropout", self.model.dropout),
            ("activation_checkpointing", self.run.activation_checkpointing),
        ):
            way_out = f"Pass --{name.replace('_', '-')} 0."
            if value is True:
                way_out = f"Leave out --{name.replace('_', '-')}."
            require(not value, name, value, frozen, way_out)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested plain types, as saved in a run's config.json."""
        return jsonable(dataclasses.asdict(self))  # type: ignore[no-any-return]


def jsonable(value: Any) -> Any:
    """Turn nested dicts, sequences and paths into what JSON holds."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value
