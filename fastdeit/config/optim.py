"""Optimiser, schedule and loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastdeit.config.rules import Effect, Rule, check


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimiser and loss; a linear warm-up and a cosine (Table 9)."""

    epochs: int = 300
    """How many epochs to train."""
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    """adamw (betas 0.9 and 0.999, eps 1e-8), sgd (Nesterov) or lamb (DeiT-III)."""
    base_lr: float = 5e-4
    """Learning rate at a batch of 512; the one used is base_lr x batch_size / 512."""
    scale_lr: bool = True
    """Whether base_lr grows with the batch; if not, it is the one used."""
    min_lr: float = 1e-5
    """Where the cosine ends (not scaled by the batch, as upstream)."""
    warmup_epochs: float = 5
    """Length of the linear warm-up from warmup_lr."""
    warmup_lr: float = 1e-6
    """Where the warm-up starts (not scaled by the batch, as upstream)."""
    weight_decay: float = 0.05
    """Weight decay, on matrices only; decoupled except with sgd."""
    trainable: Literal["all", "classifier"] = "all"
    """classifier: only the classifier and, in a convnet, the last batch norm before it are trained;
    all else is frozen, in evaluation mode (FixRes, for a teacher at another resolution)."""
    momentum: float = 0.9
    """Momentum of sgd."""
    accumulate: int = 1
    """In how many parts a process computes its share of a step, one after another, to need less
    memory; samples, mixing and learning rate stay as they are."""
    loss: Literal["ce", "bce"] = "ce"
    """ce: cross-entropy against mixed, smoothed labels; bce: binary cross-entropy in which each
    mixed label counts fully (DeiT-III), without smoothing."""
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    """Weight of each class in the loss of the labels, from how many images it has in the training
    set: balanced is one over that (scikit-learn's), sqrt the square root of it."""
    clip_grad: float = 0.0
    """Greatest norm of all gradients together; larger ones are scaled down. 0 switches it off."""
    ema_decay: float = 0.99996
    """How much of the moving average of the weights a step keeps; 0 for no average (DeiT: 0.99996).
    Its accuracy is evaluated and its weights are saved beside the model's."""

    def __post_init__(self) -> None:
        check(self, _RANGES, _RULES, _EFFECTS)

    def lr(self, batch_size: int) -> float:
        """The peak learning rate at a batch size (DeiT: linear in the batch, over 512)."""
        return self.base_lr * batch_size / 512 if self.scale_lr else self.base_lr


_RANGES = {
    "epochs accumulate": "[1, inf)",
    "base_lr": "(0, inf)",
    "ema_decay momentum": "[0, 1)",
    "min_lr warmup_lr weight_decay clip_grad": "[0, inf)",
}
_RULES: tuple[Rule, ...] = (
    (
        "warmup_epochs",
        lambda c: 0 <= c.warmup_epochs < c.epochs,
        "must be at least 0 and below epochs ({0.epochs})",
        "Pass a smaller --warmup-epochs, 0 for none.",
    ),
)
_EFFECTS: tuple[Effect, ...] = (
    ("momentum", lambda c: c.optimizer == "sgd", "sgd", "Pass --optimizer sgd"),
    ("warmup_lr", lambda c: c.warmup_epochs > 0, "a warm-up", "Pass --warmup-epochs 5, say"),
)
