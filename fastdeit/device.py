"""Where a run computes and in which precision, each chosen once and with its reason."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from fastdeit.errors import UserError


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """The dtype of autocast regions; None computes in float32."""
    reason: str
    """Why this device and precision, for the log."""

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, its weights channels-last."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def synchronize(self) -> None:
        """Wait for the device; a clock is read only after this."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Choose the device and precision of a run.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (bf16 on a GPU, fp32 on a CPU), "fp32" or "bf16".

    Raises:
        UserError: the device is not there.
    """
    num_gpus = torch.cuda.device_count()
    if device == "auto":
        chosen = torch.device("cuda" if num_gpus else "cpu")
        why = "a GPU is there" if num_gpus else "no GPU is there"
    else:
        try:
            chosen = torch.device(device)
        except RuntimeError:
            chosen = torch.device("meta")
        if chosen.type not in ("cpu", "cuda"):
            raise UserError(
                f"device must be auto, cpu, cuda or cuda:N. Found: {device}. Use --device auto."
            )
        if chosen.type == "cuda" and (chosen.index or 0) >= num_gpus:
            raise UserError(
                f"device {device} is not there. Found: {num_gpus} CUDA devices. "
                "Use --device auto or --device cpu."
            )
        why = "as asked"
    use_bf16 = precision == "bf16" or (precision == "auto" and chosen.type == "cuda")
    return Compute(
        device=chosen,
        autocast_dtype=torch.bfloat16 if use_bf16 else None,
        reason=f"{chosen} ({why}), {'bf16 autocast' if use_bf16 else 'fp32'}",
    )
