"""The parts of a training step, for whoever wants to know where its time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from fastdeit.machine.device import Compute

_clock: PhaseClock | None = None
_marks_on: torch.device | None = None


class PhaseClock:
    """How long each part took: on a GPU by its own events, so that nothing waits in between."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._is_gpu = compute.device.type == "cuda"
        self._host_ms: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[PhaseClock]:
        """Hear every `phase` until the end of the block."""
        global _clock
        before, _clock = _clock, self
        try:
            yield self
        finally:
            _clock = before

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a part; parts must not lie in each other."""
        if self._is_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            with self.on_host(name):
                yield

    @contextlib.contextmanager
    def on_host(self, name: str) -> Iterator[None]:
        """Time a part that is the host's alone, such as a wait for the loader."""
        started = time.perf_counter()
        yield
        took_ms = 1000 * (time.perf_counter() - started)
        self._host_ms[name] = self._host_ms.get(name, 0.0) + took_ms

    def milliseconds(self) -> dict[str, float]:
        """Each part's time so far, in the order of their first mention; waits for the device."""
        self._compute.synchronize()
        total = dict(self._host_ms)
        for name, start, end in self._events:
            total[name] = total.get(name, 0.0) + start.elapsed_time(end)
        return total


@contextlib.contextmanager
def marking(device: torch.device) -> Iterator[None]:
    """Let every `phase` be seen in traces, of torch's profiler and of Nsight."""
    global _marks_on
    before, _marks_on = _marks_on, device
    try:
        yield
    finally:
        _marks_on = before


def phase(name: str) -> contextlib.AbstractContextManager[object]:
    """A part of a step; costs next to nothing while no clock runs and nothing is traced."""
    if _clock is None and _marks_on is None:
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    if _marks_on is not None:
        stack.enter_context(torch.profiler.record_function(name))
        if _marks_on.type == "cuda":
            stack.enter_context(torch.cuda.nvtx.range(name))
    if _clock is not None:
        stack.enter_context(_clock.span(name))
    return stack
