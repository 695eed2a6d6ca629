"""`fastdeit bench ceilings`: what the machine can do at most, which bounds the others' rates."""

from __future__ import annotations

from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import Device, Out, Rounds, require_at_least
from fastdeit.benchmarks.harness.run import measure_parts


def ceilings(device: Device = "auto", rounds: Rounds = 5, out: Out = None) -> int:
    """Measure what the machine can do: matrix products, memory, the way to the GPU, JPEG decoding.

    The bounds of the other benchmarks' rates.
    """
    require_at_least(1, rounds=rounds)
    return measure_parts([ceilings_part(device, "auto", rounds)], out, device)


def ceilings_part(device: str, precision: str, rounds: int) -> Part:
    """The part that `measure_ceilings` does."""
    return Part(
        name="ceilings",
        work="fastdeit.benchmarks.cases.ceiling_rates:measure_ceilings",
        options={"device": device, "precision": precision, "rounds": rounds},
    )
