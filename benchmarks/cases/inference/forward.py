"""A model's forward pass, in each of the ways that a protocol may run it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.benchmarks.cases.inference.architectures import Architecture
from fastdeit.benchmarks.harness.rounds import Case, Effort, measure
from fastdeit.config import ModelConfig
from fastdeit.errors import require
from fastdeit.machine.device import Compute
from fastdeit.measured.rows import Row
from fastdeit.models import make_model, num_parameters
from fastdeit.models.flops import forward_flops

NUM_CLASSES = 1000
TRIAL_ROUNDS = 3
"""Timed batches that decide which way of running a model is the fastest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a model is run."""

    weights: torch.dtype = torch.float32
    has_autocast: bool = False
    """Whether products are in bf16 beside weights in float32."""
    is_channels_last: bool = False
    """Whether images and weights lie in memory as NHWC."""
    is_compiled: bool = False
    """Whether torch.compile works on it."""

    def __str__(self) -> str:
        """In words, for a note."""
        dtype = "bf16 weights" if self.weights == torch.bfloat16 else "fp32 weights"
        autocast = ", bf16 autocast" if self.has_autocast else ""
        order = "channels-last (NHWC)" if self.is_channels_last else "contiguous (NCHW)"
        return f"{dtype}{autocast}, {order}, {'compiled' if self.is_compiled else 'eager'}"

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.is_channels_last else torch.contiguous_format


@dataclass(slots=True)
class Network:
    """A model with random weights on a device."""

    architecture: Architecture
    module: nn.Module
    """In evaluation mode."""
    num_parameters: int
    flops: int
    """Floating-point operations of one image."""
    is_convnet: bool
    """Whether it convolves more than once: a transformer does to make its patches."""

    @classmethod
    def of(cls, architecture: Architecture, device: torch.device) -> Network:
        """Build it; an error of timm's or torch's says why it cannot be."""
        config = ModelConfig(model=architecture.model)
        module = make_model(config, NUM_CLASSES, architecture.image_size).eval()
        num_convolutions = sum(isinstance(each, nn.Conv2d) for each in module.modules())
        flops = forward_flops(module, architecture.image_size)
        return cls(
            architecture, module.to(device), num_parameters(module), flops, num_convolutions > 1
        )

    def ways(self, protocol: str) -> list[Way]:
        """The ways that are tried in a protocol; the fastest is kept.

        Compiled, a transformer has weights in bf16 and a convnet autocast: compiling takes too long
        to try both. Of timm's published rates on two GPUs of one kind, ResNet-18 and 50 are 22% and
        7% faster so, transformers 4% to 10% slower (results/benchmark-infer-*-pt29*.csv).
        """
        bf16 = Way(weights=torch.bfloat16)
        autocast = Way(has_autocast=True)
        if protocol == "bf16-compiled":
            return [
                Way(
                    weights=torch.float32 if self.is_convnet else torch.bfloat16,
                    has_autocast=self.is_convnet,
                    is_channels_last=True,
                    is_compiled=True,
                )
            ]
        ways = {"fp32": [Way()], "tf32": [Way()], "bf16": [bf16, autocast]}[protocol]
        if protocol == "fp32" or not self.is_convnet:
            return ways
        return [
            Way(weights=way.weights, has_autocast=way.has_autocast, is_channels_last=is_last)
            for way in ways
            for is_last in (False, True)
        ]


class Forward:
    """A network's forward pass in one way; making another one of the same network ends it."""

    def __init__(self, network: Network, way: Way, compute: Compute) -> None:
        """Bring the network's weights, which change, into the way's shape."""
        self.network, self.way, self.compute = network, way, compute
        self.refused: str | None = None
        """Why the last batch that was too large failed, if not for want of memory."""
        module = network.module.to(dtype=way.weights).to(memory_format=way.memory_format)
        self.call: Any = module
        if way.is_compiled:
            torch.compiler.reset()
            self.call = torch.compile(module, dynamic=False)
        # Images in half precision, as a loader would hand them over.
        is_half = way.has_autocast or way.weights != torch.float32
        self.dtype = torch.bfloat16 if is_half else torch.float32

    def images(self, num: int) -> Tensor:
        """Noise on the device, (num, 3, S, S)."""
        size, device = self.network.architecture.image_size, self.compute.device
        noise = torch.randn(num, 3, size, size, device=device, dtype=self.dtype)
        return noise.to(memory_format=self.way.memory_format)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) of what `images` made; has waited for the device."""
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self.call(images)
        self.compute.synchronize()
        return logits

    def _autocast(self) -> AbstractContextManager[object]:
        return self.compute.autocast() if self.way.has_autocast else nullcontext()

    def seconds_of(self, num: int) -> float | None:
        """Seconds of a forward pass of `num` images; None if so many do not fit.

        Raises:
            RuntimeError: one image fails, and not for want of memory.
        """
        try:
            return self._time(num)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                if num == 1:
                    raise
                # Libraries refuse sizes too, such as tensors of more than 2^31 numbers.
                self.refused = _first_line(error)
        free_memory(self.compute.device)  # outside of the block, which holds the pass's tensors
        return None

    def _time(self, num: int) -> float:
        """Seconds of a forward pass."""
        images = self.images(num)
        if num == 1:
            self(images)  # the first pass of all loads kernels
        started = time.perf_counter()
        self(images)
        return time.perf_counter() - started


def free_memory(device: torch.device) -> None:
    """Give memory of passes that are over back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host, has no more memory."""
    # cuBLAS and the host's allocator say so in words of their own.
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def timed_at(case: str, name: str, forward: Forward, batch: int, effort: Effort) -> Row | None:
    """Time batches of one size; None if it does not fit."""
    if forward.compute.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(forward.compute.device)
    try:
        images = forward.images(batch)

        def run() -> int:
            forward(images)
            return batch

        (row,) = measure(case, "img/s", [Case(name=name, run=run)], effort)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return None
    return replace(row, batch_size=batch, gpu_memory_gib=forward.compute.peak_memory_gib())


def fastest_way(network: Network, protocol: str, compute: Compute, batch: int) -> tuple[Way, str]:
    """The fastest way of a protocol in a short trial, and what the others did in words."""
    ways = network.ways(protocol)
    if len(ways) == 1:
        return ways[0], ""
    rates: dict[Way, float] = {}
    for way in ways:
        forward = Forward(network, way, compute)
        row = timed_at("", "", forward, batch, Effort(TRIAL_ROUNDS))
        free_memory(compute.device)
        if row is not None:
            rates[way] = row.median
    if not rates:  # the timing that follows makes the batch smaller
        return ways[0], ""
    best = max(rates, key=lambda way: rates[way])
    others = [f"{way} {rate / rates[best]:.0%}" for way, rate in rates.items() if way != best]
    return best, f" (the fastest of a short trial: {', '.join(others)} of it)" if others else ""


@contextmanager
def saying(architecture: Architecture, device: torch.device) -> Iterator[None]:
    """Say in one line, as a UserError, why a model cannot be built or run."""
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_memory(error):
            require_fit(0, architecture, device)
        raise UserError(
            f"{architecture.model} must run at {architecture.image_size} px on {device}. "
            f"Found: {_first_line(error)}. Leave it out, or take another --device."
        ) from error


def require_fit(
    batch: int, architecture: Architecture, device: torch.device, tried: int = 1
) -> None:
    """Refuse a model of which no image fits; `tried` were in the smallest batch that did not."""
    smaller = "a smaller --batch-size or " if tried > 1 else ""
    require(
        batch > 0,
        "a batch",
        f"{tried} of {architecture.model} at {architecture.image_size} px, too much for {device}",
        "must fit into the device's memory",
        f"Take {smaller}another --device.",
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """What a search found."""

    batch_size: int
    """Images; 0 if not even one fits."""
    stopped_by: Literal["memory", "cap", "time"]
    """Why no larger one: it does not fit, it may not be tried, or it would take too long."""


def largest_batch(
    seconds_of: Callable[[int], float | None], most: int, batch_s: float | None = None
) -> Fit:
    """Double from one image until a batch does not fit, then bisect between.

    Args:
        seconds_of: tries a batch of so many images; how long it took, None if it does not fit.
        most: no larger batch is tried.
        batch_s: nor one that would probably take longer; the result is to an eighth of the largest
            power of two that fits.
    """
    low, size = 0, 1
    while True:
        took = seconds_of(size)
        if took is None:
            break
        low = size
        if low == most:
            return Fit(low, "cap")
        if batch_s is not None and 2 * took > batch_s:
            return Fit(low, "time")
        size = min(2 * low, most)
    high, step = size, max(1, low // 8)
    while high - low > step:
        middle = low + max(step, (high - low) // 2 // step * step)
        if seconds_of(middle) is None:
            high = middle
        else:
            low = middle
    return Fit(low, "memory")
