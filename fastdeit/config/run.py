"""Where and how a run computes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdeit.config.rules import Rule, check


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where and how a run computes."""

    out: Path
    """Folder of the run: configuration, metrics, checkpoint."""
    seed: int = 0
    """Seed of the order, the crops, the augmentation and the initial weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """bf16 or fp16 (with loss scaling) autocast, fp32, or tf32 (fp32 whose matrix products a GPU
    rounds); auto is bf16 on a GPU, fp16 on one before Ampere, and fp32 on a CPU."""
    compat: Literal["none", "upstream"] = "none"
    """upstream: do what the published code really did where it differs: order of the samples,
    learning rate by the epoch and one late, decay of the distillation token, mixing by the process;
    it then depends on the number of processes."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """Mode of torch.compile; auto is default on a GPU and off on a CPU."""
    compiled: Path | None = None
    """A file of compiled code, from `fastdeit bench --save-compiled` on the same kind of GPU: the
    first step comes in seconds. It is code: take only your own."""
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = "auto"
    """Which implementation of attention is taken; auto leaves it to torch."""
    activation_checkpointing: bool = False
    """Compute the activations again in the backward pass: a third more time, much less memory (not
    with batch norm)."""
    log_every_steps: int = 10
    """How often the loss is read from the device; each reading waits for it."""
    profile_steps: int = 0
    """Trace so many steps, after the first few, into OUT/trace.json.gz for Perfetto; 0 for none."""
    save_minutes: float = 10.0
    """How often a checkpoint is saved within an epoch, beside that at its end; 0 for never."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept, beside the best."""
    budget_hours: float = 72.0
    """The progress line says whether the run will end within this (the paper: less than 3 days)."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, into OUT/tensorboard."""
    wandb: str | None = None
    """Send the metrics to this project of Weights & Biases too."""
    timeout_minutes: float = 10.0
    """How long a process waits for the others before the job is stopped."""
    overwrite: bool = False
    """Replace a run that is already in the folder."""
    resume: Literal["never", "auto"] = "never"
    """auto: go on with the run in the folder from its newest checkpoint, to the same weights as
    without the stop; begin it if there is none."""

    def __post_init__(self) -> None:
        check(self, _RANGES, _RULES)


_RANGES = {
    "log_every_steps keep_checkpoints": "[1, inf)",
    "profile_steps": "[0, inf)",
    "save_minutes": "[0, inf]",
    "budget_hours": "(0, inf]",
    "timeout_minutes": "(0, inf)",
}
_RULES: tuple[Rule, ...] = (
    (
        "device",
        lambda c: re.fullmatch(r"auto|cpu|cuda(:\d+)?", c.device) is not None,
        "must be auto, cpu, cuda or cuda:N",
        "Pass --device auto.",
    ),
    (
        "seed",
        lambda c: 0 <= c.seed < 1 << 63,
        "must be from 0 to 2^63 - 1",
        "Pass --seed 0, say.",
    ),
    (
        "overwrite",
        lambda c: not (c.overwrite and c.resume == "auto"),
        "must not be given with --resume auto, which keeps what is there",
        "Leave one out.",
    ),
)
