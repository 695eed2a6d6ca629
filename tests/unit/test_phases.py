"""The parts of a step are timed, and nothing is while no clock runs."""

from __future__ import annotations

import time

import pytest
import torch
from gpu_waits import DEVICES

from fastdeit.machine.device import Compute
from fastdeit.measured.phases import PhaseClock, phase

CPU = Compute(torch.device("cpu"), None, "a test")


def test_planted_sleeps_are_found() -> None:
    """Each part gets its own time; the same one twice is added up."""
    clock = PhaseClock(CPU)
    with clock.running():
        for _ in range(2):
            with clock.on_host("wait"):
                time.sleep(0.02)
            with phase("forward"):
                time.sleep(0.05)
    found = clock.milliseconds()
    assert list(found) == ["wait", "forward"]
    assert 40 <= found["wait"] < 90  # the machine is shared
    assert 100 <= found["forward"] < 200


def test_nothing_is_timed_without_a_clock() -> None:
    """Neither before nor after, nor if the block ends with an error."""
    clock = PhaseClock(CPU)
    with phase("before"):
        pass
    with pytest.raises(ZeroDivisionError), clock.running():
        raise ZeroDivisionError
    with phase("after"):
        pass
    assert clock.milliseconds() == {}


@pytest.mark.parametrize("name", DEVICES)
def test_the_device_is_timed(name: str) -> None:
    """On a GPU a part that only launches work takes as long as the work does."""
    compute = Compute(torch.device(name), None, "a test")
    side = 8192 if name == "cuda" else 256
    left = torch.randn(side, side, device=compute.device)
    left @ left
    compute.synchronize()
    clock = PhaseClock(compute)
    started = time.perf_counter()
    with clock.running(), phase("product"):
        for _ in range(10):
            left @ left
    launched_ms = 1000 * (time.perf_counter() - started)
    found = clock.milliseconds()["product"]
    took_ms = 1000 * (time.perf_counter() - started)
    assert 0 < found <= took_ms
    if name == "cuda":
        assert launched_ms < found
