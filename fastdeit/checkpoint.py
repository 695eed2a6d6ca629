"""Checkpoints: written whole or not at all, loaded without running anything in them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fastdeit.config import ModelConfig
from fastdeit.errors import UserError
from fastdeit.files import replacing
from fastdeit.models import make_model

FORMAT = "fastdeit-checkpoint-1"


def save_checkpoint(
    path: Path,
    model: nn.Module,
    model_config: ModelConfig,
    image_size: int,
    class_names: tuple[str, ...],
    **extra: Any,
) -> None:
    """Write a checkpoint: to a temporary file, to the disk, then under its name.

    Args:
        path: where; what was there stays until the new one is complete.
        model: its state is saved, without the wrapper of torch.compile.
        model_config: so that the model can be built again.
        image_size: side of the model's input in pixels.
        class_names: one for each output.
        **extra: tensors, numbers, strings and containers of them: optimiser, position, config.
    """
    content = {
        "format": FORMAT,
        "model": getattr(model, "_orig_mod", model).state_dict(),
        "model_config": dataclasses.asdict(model_config),
        "image_size": image_size,
        "class_names": list(class_names),
        **extra,
    }
    with replacing(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, weights only: no code in the file is run.

    Raises:
        UserError: there is no such file, it is damaged, or something else wrote it.
    """
    if not path.is_file():
        raise UserError(f"checkpoint is not a file. Found: {path}. Give RUN/checkpoint.pt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        if "weights_only" in reason:
            reason = "no checkpoint, or one that would run code"
        raise UserError(
            f"checkpoint cannot be read. Found: {path} ({path.stat().st_size} bytes; {reason}). "
            "It is damaged or no checkpoint; give another one."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"checkpoint was not written by this version of fastdeit. Found: {path}. "
            "Give RUN/checkpoint.pt of `fastdeit train`."
        )
    return content


def model_from_checkpoint(
    content: dict[str, Any], weights: Literal["raw", "ema"] = "raw"
) -> nn.Module:
    """Build the model of a checkpoint with its weights, in evaluation mode on the CPU.

    Args:
        content: from `load_checkpoint`.
        weights: raw, as they were trained, or ema, their moving average.

    Raises:
        UserError: the run kept no average.
    """
    if weights == "ema" and content.get("ema") is None:
        raise UserError(
            "the checkpoint must hold averaged weights. Found: none, its run had --ema-decay 0. "
            "Pass --weights raw."
        )
    config = ModelConfig(**content["model_config"])
    model = make_model(config, len(content["class_names"]), content["image_size"])
    model.load_state_dict(content["model" if weights == "raw" else "ema"])
    return model.eval()
