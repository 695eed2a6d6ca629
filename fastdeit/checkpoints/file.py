"""Checkpoints: written whole or not at all, loaded without running anything in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import torch
from torch import Tensor, nn

from fastdeit.checkpoints.checksum import content_checksum, map_content
from fastdeit.checkpoints.classes import Classes, read_classes
from fastdeit.config import ModelConfig
from fastdeit.errors import UserError
from fastdeit.files import replacing
from fastdeit.models import make_model
from fastdeit.models.initialise import initialise_from

FORMAT = "fastdeit-checkpoint-1"


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model as it was made, without the wrappers of torch.compile and of data parallelism."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def checkpoint_content(
    model: nn.Module,
    model_config: ModelConfig,
    image_size: int,
    classes: Classes,
    **extra: Any,
) -> dict[str, Any]:
    """Put together what a checkpoint holds: references to the tensors, no copies.

    Args:
        model: its state goes in, without the wrappers of torch.compile and of data parallelism.
        model_config: so that the model can be built again.
        image_size: side of the model's input in pixels.
        classes: one for each output.
        **extra: tensors, numbers, strings and containers of them: optimiser, position, config.
    """
    # A block that is compiled on its own has the wrapper's name within its weights' names.
    state = unwrap_model(model).state_dict()
    return {
        **extra,
        "format": FORMAT,
        "model": {name.replace("_orig_mod.", ""): value for name, value in state.items()},
        "model_config": dataclasses.asdict(model_config),
        "image_size": image_size,
        **classes.to_dict(),
    }


def save_checkpoint(
    path: Path, content: dict[str, Any], before_rename: Callable[[], None] | None = None
) -> None:
    """Write a checkpoint: to a temporary file, to the disk, then under its name.

    Args:
        path: what was there stays until the new one is complete.
        content: from `checkpoint_content`; a checksum over all of it goes into the file.
        before_rename: called when the new file is on the disk and not under its name yet.

    Raises:
        TypeError: the content has something that a checkpoint cannot hold.
        OSError: it cannot be written; what was there is as it was.
    """
    content = map_content(content, _storable)
    content["checksum"] = content_checksum(content)
    with replacing(path, before_rename) as file:
        sink = _Sink(file)
        torch.save(content, cast(IO[bytes], sink))
        if sink.error is not None:
            raise sink.error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, every byte of it checked; no code in the file is run.

    Raises:
        UserError: there is no such file, it is damaged, or something else wrote it.
    """
    if not path.is_file():
        raise UserError(f"checkpoint is not a file. Found: {path}. Give RUN/checkpoint.pt.")
    num_bytes = path.stat().st_size
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        is_ours = isinstance(content, dict) and content.get("format") == FORMAT
        if is_ours:
            # Without what the checksum does not cover, such as a tensor's requires_grad.
            content = map_content(content, Tensor.detach)
            expected = content.pop("checksum", None)
            found = content_checksum(content)
    except Exception as error:  # damaged bytes fail in torch, zip and pickle in any way there is
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        if "weights_only" in reason or reason.startswith("Weights only"):
            reason = "no checkpoint, or one that would run code"
        raise _damaged(path, num_bytes, reason) from error
    if not is_ours:
        raise UserError(
            f"checkpoint was not written by this version of fastdeit. Found: {path}. "
            "Give RUN/checkpoint.pt of `fastdeit train`; `fastdeit import` reads other programs'."
        )
    if expected is None:
        raise _damaged(path, num_bytes, "it has no checksum")
    if found != expected:
        raise _damaged(path, num_bytes, "its checksum is not that of its content")
    return content  # type: ignore[no-any-return]


def model_from_checkpoint(
    content: dict[str, Any],
    weights: Literal["raw", "ema"] = "raw",
    image_size: int | None = None,
) -> nn.Module:
    """Build the model of a checkpoint with its weights, in evaluation mode on the CPU.

    Args:
        content: from `load_checkpoint`.
        weights: raw, as they were trained, or ema, their moving average.
        image_size: side of the input in pixels, for which position embeddings are resized as for
            fine-tuning; None takes that of the checkpoint.

    Raises:
        UserError: the run kept no average, or the model cannot take that size.
    """
    if weights == "ema" and content.get("ema") is None:
        raise UserError(
            "the checkpoint must hold averaged weights. Found: none; imports and runs with "
            "--ema-decay 0 keep none. Pass --weights raw."
        )
    config = ModelConfig(**content["model_config"])
    own_size = content["image_size"]
    model = make_model(config, len(content["class_names"]), image_size or own_size)
    if image_size in (None, own_size):
        model.load_state_dict(content["model" if weights == "raw" else "ema"])
        return model.eval()
    try:
        initialise_from(model, content, read_classes(content), weights)
    except UserError as error:
        raise UserError(
            f"image_size must be the checkpoint's ({own_size}) for {config.model}, whose weights "
            f"are made for it. Found: {image_size}. Leave --image-size out."
        ) from error
    return model.eval()


class _Sink:
    """A file for torch's writer, which makes a RuntimeError without a reason of an OSError."""

    def __init__(self, file: BinaryIO) -> None:
        # After the first error, nothing more is written; whoever gave the file raises it.
        self.error: OSError | None = None
        self._file = file

    def write(self, data: memoryview) -> int:
        """Write, or remember why not."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed by whoever gave it."""


def _storable(tensor: Tensor) -> Tensor:
    """A tensor on the CPU; torch saves all the memory a tensor lies in, so a part is copied."""
    host = tensor.detach().cpu().resolve_conj().resolve_neg()
    return host if host.untyped_storage().nbytes() == host.nbytes else host.clone()


def _damaged(path: Path, num_bytes: int, reason: str) -> UserError:
    return UserError(
        f"checkpoint cannot be read. Found: {path} ({num_bytes} bytes; {reason}). "
        "It is damaged or no checkpoint; give another one."
    )
