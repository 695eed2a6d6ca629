"""Where a run computes and in which precision, each chosen once and with its reason."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastdeit.errors import UserError
from fastdeit.machine.launch import local_world_size

AMPERE = (8, 0)
"""Compute capability from which GPUs have bf16."""
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Implementations of attention, by the names of `fastdeit train --attention`."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """The dtype of autocast regions; None computes in float32."""
    reason: str
    """Why this device and precision, for the log."""
    uses_tf32: bool = False
    """Whether float32 matrix products are rounded to TF32 on a GPU."""
    attention: str = "auto"
    """Which implementation of attention runs; auto leaves it to torch."""

    @property
    def scales_loss(self) -> bool:
        """Whether small gradients would vanish, so that the loss must be scaled (fp16)."""
        return self.autocast_dtype == torch.float16

    def set_switches(self) -> None:
        """Set torch's switches for TF32, which hold for the whole process, as this one wants them.

        They are on by default in convolutions.
        """
        torch.set_float32_matmul_precision("high" if self.uses_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.uses_tf32

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        stack = contextlib.ExitStack()
        if self.autocast_dtype is not None:
            stack.enter_context(torch.autocast(self.device.type, dtype=self.autocast_dtype))
        if self.attention != "auto":
            stack.enter_context(sdpa_kernel(ATTENTION[self.attention]))
        return stack

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, its weights channels-last."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def peak_memory_gib(self) -> float | None:
        """The most memory that tensors took on a GPU so far, in GiB; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def synchronize(self) -> None:
        """Wait for the device; a clock is read only after this."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def choose_compute(device: str = "auto", precision: str = "auto", local_rank: int = 0) -> Compute:
    """Choose the device and precision of a process.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" (bf16 on a GPU, fp16 on one before Ampere, which has no bf16 of its own,
            fp32 on a CPU), "fp32", "tf32", "bf16" or "fp16".
        local_rank: number of this process on its machine; "auto" and "cuda" take the GPU of that
            number.

    Raises:
        UserError: the device is not there, or cannot do the precision.

    Note: sets torch's switches, see `Compute.set_switches`.
    """
    chosen, why = _choose_device(device, local_rank)
    is_gpu = chosen.type == "cuda"
    if is_gpu:
        torch.cuda.set_device(chosen)
    name = precision if precision != "auto" else _usual_precision(chosen)
    if name == "tf32" and not is_gpu:
        raise UserError(
            f"precision tf32 needs a GPU. Found: device {chosen}. Pass --precision fp32."
        )
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    compute = Compute(
        device=chosen,
        autocast_dtype=dtype,
        reason=f"{chosen} ({why}), {name}{' autocast' if dtype else ''}",
        uses_tf32=name == "tf32",
    )
    compute.set_switches()
    return compute


def _usual_precision(device: torch.device) -> str:
    """What auto stands for; bf16 on a GPU without it is emulated, many times as slow as fp16."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp16"


def choose_compile_mode(mode: str, compute: Compute) -> str | None:
    """The mode of torch.compile; None runs the model as it is.

    "auto" is default on a GPU and off on a CPU.
    """
    if mode == "auto":
        return "default" if compute.device.type == "cuda" else None
    return None if mode == "off" else mode


def _choose_device(device: str, local_rank: int) -> tuple[torch.device, str]:
    num_gpus = torch.cuda.device_count()
    if device == "auto" and not num_gpus:
        return torch.device("cpu"), "no GPU is there"
    try:
        chosen = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(
            f"device must be auto, cpu, cuda or cuda:N. Found: {device}. Use --device auto."
        )
    if chosen.type == "cpu":
        return chosen, "as asked"
    index: int | None = chosen.index
    if index is not None and local_world_size() > 1:
        raise UserError(
            f"several processes must not share a GPU. Found: device {device} for all of this "
            "machine. Pass --device cuda, and each takes its own."
        )
    if num_gpus and index is None:
        if local_rank >= num_gpus:
            raise UserError(
                f"each process of a machine needs a GPU of its own. Found: process {local_rank + 1}"
                f" and {num_gpus} GPUs. Start torchrun with --nproc-per-node={num_gpus}."
            )
        chosen = torch.device("cuda", local_rank)
    if (chosen.index or 0) >= num_gpus:
        raise UserError(
            f"device {device} is not there. Found: {num_gpus} CUDA devices. "
            "Use --device auto or --device cpu."
        )
    return chosen, "a GPU is there" if device == "auto" else "as asked"
