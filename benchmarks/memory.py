"""GPU memory of what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from fastdeit.device import Compute


@dataclass(slots=True)
class Memory:
    """How much GPU memory a case takes at most, without that of the others."""

    compute: Compute
    """Where."""
    peak_gib: float | None = None
    """In the first round, its models included; None on a CPU."""
    _built: int = field(default=0)

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is allocated here belongs to the case."""
        before = self._allocated()
        yield
        self._built += self._allocated() - before

    @contextmanager
    def working(self) -> Iterator[None]:
        """A round."""
        if self.compute.device.type != "cuda" or self.peak_gib is not None:
            yield
            return
        before = self._allocated()
        torch.cuda.reset_peak_memory_stats(self.compute.device)
        yield
        peak = torch.cuda.max_memory_allocated(self.compute.device)
        self.peak_gib = (self._built + peak - before) / 2**30

    def _allocated(self) -> int:
        is_gpu = self.compute.device.type == "cuda"
        return torch.cuda.memory_allocated(self.compute.device) if is_gpu else 0
