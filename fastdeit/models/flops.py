"""Floating-point operations: of a model, of training it, and how many a device does in a second.

A multiply-add is two operations, as everywhere where they are compared with a peak. timm's and the
paper's GMACs are half of what is counted here; they are up to 0.5% more than that, since they count
the few operations of norms and activations too, which no matrix unit does (DeiT-Ti 1.26 for 1.254,
S 4.61 for 4.599, B 17.58 for 17.564, B at 384 pixels 55.54 for 55.484 GMACs).
"""

from __future__ import annotations

import copy
import re
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastdeit.machine.device import Compute

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the product that measures a device: large enough to fill it."""

_FAMILIES: dict[str, tuple[str, dict[str, float]]] = {
    "H100 SXM": (
        r"NVIDIA H100 80GB HBM3",
        {"bf16": 989.5, "fp16": 989.5, "tf32": 494.5, "fp32": 67},
    ),
    "H100 PCIe": (
        r"NVIDIA H100 PCIe",
        {"bf16": 756.5, "fp16": 756.5, "tf32": 378, "fp32": 51},
    ),
    "H100 NVL": (
        r"NVIDIA H100 NVL",
        {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5},
    ),
    "H200 SXM": (
        r"NVIDIA H200",
        {"bf16": 989.5, "fp16": 989.5, "tf32": 494.5, "fp32": 67},
    ),
    "H200 NVL": (
        r"NVIDIA H200 NVL",
        {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5},
    ),
    "B200": (r"NVIDIA B200", {"bf16": 2250, "fp16": 2250}),
    "A100": (
        r"(NVIDIA )?A100(-SXM4-\d+GB|-PCIE-\d+GB| 80GB PCIe)",
        {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    ),
    "L40S": (r"NVIDIA L40S", {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6}),
    "L40": (r"NVIDIA L40", {"bf16": 181, "fp16": 181, "tf32": 90.5, "fp32": 90.5}),
    "L4": (r"NVIDIA L4", {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3}),
    "A10": (r"NVIDIA A10", {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2}),
    "RTX 3090": (
        r"(NVIDIA )?GeForce RTX 3090",
        {"bf16": 71, "fp16": 71, "tf32": 35.6, "fp32": 35.6},
    ),
    "RTX 4090": (
        r"NVIDIA GeForce RTX 4090",
        {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6},
    ),
    "RTX 5090": (r"NVIDIA GeForce RTX 5090", {"bf16": 209.5, "fp16": 209.5, "fp32": 104.8}),
    "V100 SXM2": (r"(Tesla |NVIDIA )?V100-SXM2-\d+GB", {"fp16": 125, "fp32": 15.7}),
    "V100 PCIe": (r"(Tesla |NVIDIA )?V100-PCIE-\d+GB", {"fp16": 112, "fp32": 14}),
    "T4": (r"(Tesla|NVIDIA) T4", {"fp16": 65, "fp32": 8.1}),
}
"""GPU: (what the driver may call it, its peak in TFLOP/s by precision).

Dense, products summed in float32 (GeForce does twice that when it sums in float16, which cuBLAS
does not), at the boost clock and the full power limit. Source: NVIDIA's datasheets and, for
GeForce, its architecture whitepapers; where they give the rate with sparsity only, half of it. A
precision that is missing runs without matrix units or is not published: it is measured.
"""


@dataclass(frozen=True, slots=True)
class Peak:
    """How much a device could do at most."""

    flops_per_s: float
    source: str
    """Where the figure comes from, for the log."""


def forward_flops(model: nn.Module, image_size: int) -> int:
    """Count the operations of one image's forward pass in evaluation: two for a multiply-add.

    Counted are matrix products, convolutions and attention, in all heads. A model that computes
    less in training (blocks left out by stochastic depth) counts as a whole one: that is what model
    FLOPs means. The model, which may be compiled, is left alone: its structure is copied to torch's
    meta device, which holds no numbers.
    """
    structure = _structure_of(model)
    image = torch.empty(1, 3, image_size, image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        structure(image)
    return int(counter.get_total_flops())


def _counted_backward(model: nn.Module, image_size: int) -> int:
    """What the backward pass of a model that is frozen in part computes on one image."""
    structure = _structure_of(model)
    image = torch.empty(1, 3, image_size, image_size, device="meta")
    logits = structure(image)
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    return int(counter.get_total_flops())


def _structure_of(model: nn.Module) -> nn.Module:
    """A copy of a model on torch's meta device, without numbers, in float32 and evaluation mode."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    memo: dict[int, object] = {}
    for module in model.modules():
        held = [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]
        for tensor in held:
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                empty = torch.empty_like(tensor, device="meta", requires_grad=False)
                is_parameter = isinstance(tensor, nn.Parameter)
                needs_grad = tensor.requires_grad
                memo[id(tensor)] = nn.Parameter(empty, needs_grad) if is_parameter else empty
    # deepcopy takes what is in the memo for copied, so no numbers are.
    return copy.deepcopy(model, memo).to(dtype=torch.float32).eval()


def train_flops(model: nn.Module, teacher: nn.Module | None, image_size: int) -> int:
    """Operations of training on one image, for the model FLOPs utilisation (MFU).

    Three times the student's forward pass, of which two for the backward pass (less where a part of
    it is frozen), and the teacher's forward pass. What activation checkpointing computes twice
    counts once. Source: PaLM, arXiv:2204.02311, appendix B; there for language models.
    """
    forward = forward_flops(model, image_size)
    # Gradients of weights and of inputs.
    is_whole = all(parameter.requires_grad for parameter in model.parameters())
    backward = 2 * forward if is_whole else _counted_backward(model, image_size)
    answer = 0 if teacher is None else forward_flops(teacher, image_size)
    return forward + backward + answer


def peak_flops(compute: Compute) -> Peak:
    """The peak of one device in the run's precision.

    That of the GPU's datasheet, dense; for a GPU that is not in the table, or a CPU, the best rate
    of a large matrix product, which is measured (on a GPU 3 GiB at most, about a second), and
    waited for.
    """
    precision = precision_of(compute)
    if compute.device.type == "cuda":
        family, rate = datasheet_peak(torch.cuda.get_device_name(compute.device), precision)
        if rate is not None:
            return Peak(rate, f"datasheet of {family}, dense {precision}")
    side = MATRIX_SIDE[compute.device.type]
    return Peak(matrix_flops(compute, side), f"measured: {side}^3 matrix product in {precision}")


def datasheet_peak(name: str, precision: str) -> tuple[str, float | None]:
    """The dense peak that NVIDIA gives: (family, operations a second, or None if it is not known).

    `name` is what the driver calls the GPU. A slice of a GPU (MIG), a laptop GPU and other
    relatives of a known one are not known.
    """
    for family, (pattern, tflops) in _FAMILIES.items():
        if re.fullmatch(pattern, name):
            rate = tflops.get(precision)
            return family, None if rate is None else rate * 1e12
    return name, None


def precision_of(compute: Compute) -> str:
    """The precision of the run's matrix products: bf16, fp16, tf32 or fp32."""
    if compute.autocast_dtype is not None:
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}[compute.autocast_dtype]
    return "tf32" if compute.uses_tf32 else "fp32"


def matrix_flops(compute: Compute, side: int) -> float:
    """Measure a square matrix product in the run's precision, and wait for the device.

    Floating-point operations a second, the best of 5 rounds.
    """
    dtype = compute.autocast_dtype or torch.float32
    left = torch.randn(side, side, device=compute.device, dtype=dtype)
    num_products = 4 if compute.device.type == "cuda" else 1
    best = 0.0
    for _ in range(5):
        compute.synchronize()
        started = time.perf_counter()
        for _ in range(num_products):
            left @ left
        compute.synchronize()
        best = max(best, num_products * 2 * side**3 / (time.perf_counter() - started))
    return best
