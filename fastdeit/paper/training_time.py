"""What the paper says of training times, and what any estimate of one needs; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastdeit.config import TrainConfig

IMAGENET_TRAIN, IMAGENET_VAL = 1_281_167, 50_000
"""Images of ILSVRC 2012."""


@dataclass(frozen=True, slots=True)
class PaperTime:
    """A training time that the paper gives."""

    models: str
    """Pattern of timm's names."""
    image_size: int
    epochs: int
    num_gpus: int
    hours: float
    """How long it took, or less."""
    what: str


# Source: arXiv:2012.12877, section 6, "Training time"; the GPUs were V100 (the authors,
# facebookresearch/deit issue 21).
PAPER_TIMES = (
    PaperTime(r"deit_base_patch16_\d+", 224, 300, 8, 53, "300 epochs on one node of 8 V100"),
    PaperTime(r"deit_base_patch16_\d+", 224, 300, 16, 37, "300 epochs on two nodes, 16 V100"),
    PaperTime(r"deit_base_patch16_\d+", 384, 25, 8, 20, "fine-tuning for 25 epochs on 8 V100"),
    PaperTime(
        r"deit_(tiny|small)_patch16_\d+", 224, 300, 4, 72, "300 epochs on 4 GPUs, less than this"
    ),
)


def paper_times(config: TrainConfig) -> list[PaperTime]:
    """The paper's times of the same model at the same resolution; it has none of distilled runs."""
    model, image_size = config.model.model, config.data.image_size
    return [
        time
        for time in PAPER_TIMES
        if re.fullmatch(time.models, model) and time.image_size == image_size
    ]


def num_eval_passes(config: TrainConfig) -> int:
    """How often a run evaluates the validation set: after each epoch, the average too."""
    return config.optim.epochs * (2 if config.optim.ema_decay > 0 else 1)
