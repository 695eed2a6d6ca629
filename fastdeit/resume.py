"""Going on with a run: what a checkpoint must hold beside the weights, and putting it back.

No state of a random generator is among it: every draw is keyed by its epoch and step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdeit.checkpoint import load_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.ema import ModelEma
from fastdeit.errors import UserError
from fastdeit.files import replace_file

MAY_DIFFER = frozenset(
    (
        "data.train", "data.val", "data.engine", "data.threads", "data.hw_decoder_load",
        "run.out", "run.device", "run.log_every_steps", "run.overwrite", "run.resume",
        "run.compile", "distill.teacher", "dry_run",
    )
)  # fmt: skip
"""Fields that may be others when a run goes on: where things are, and how fast it is."""


def run_state(
    optimizer: torch.optim.Optimizer, ema: ModelEma | None, epoch: int, step: int
) -> dict[str, Any]:
    """What a checkpoint holds beside the weights so that the run can go on.

    Args:
        optimizer: of the run.
        ema: the averaged weights, or None.
        epoch: the next one.
        step: the next one, over the whole run.
    """
    return {
        "optimizer": optimizer.state_dict(),
        "ema": None if ema is None else ema.module.state_dict(),
        "epoch": epoch,
        "step": step,
    }


def load_run(config: TrainConfig, path: Path) -> dict[str, Any] | None:
    """Read the checkpoint that a run goes on from, and check that it is this run's.

    Returns:
        Its content, or None if the run begins.

    Raises:
        UserError: another configuration, or a run that has ended.
    """
    if config.run.resume == "never" or not path.exists():
        return None
    content = load_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(
            f"the checkpoint must hold a run's state to go on. Found: weights only, in {path}. "
            "Leave out --resume auto and give another --out."
        )
    before, now = _flat(content["config"]), _flat(config.to_dict())
    for name in sorted(before.keys() | now.keys()):
        if name not in MAY_DIFFER and before.get(name) != now.get(name):
            raise UserError(
                f"a run goes on with the configuration that it began with. Found: {name} "
                f"{now.get(name)}, before {before.get(name)}. Give the same, or another --out."
            )
    if content["epoch"] >= config.optim.epochs:
        raise UserError(
            f"the run must have epochs left. Found: all {content['epoch']} done, in {path}. "
            "Give another --out, or --overwrite instead of --resume auto."
        )
    return content


def restore(
    content: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ModelEma | None,
) -> tuple[int, int]:
    """Put a run's state back, from what `load_run` gave.

    Returns:
        (next epoch, next step over the whole run).
    """
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    if ema is not None:
        ema.module.load_state_dict(content["ema"])
    return content["epoch"], content["step"]


def cut_metrics(path: Path, step: int) -> float:
    """Drop the rows of an epoch that is done again; return the seconds that the others took."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = []
    for text in rows:
        try:
            row = json.loads(text)
        except ValueError:  # the last line of a run that was killed while it wrote
            break
        if row["step"] > step:
            break
        kept.append((text, float(row["elapsed_s"])))
    replace_file(path, "".join(f"{text}\n" for text, _ in kept).encode())
    return kept[-1][1] if kept else 0.0


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
