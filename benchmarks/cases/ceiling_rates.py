"""What a machine can do at most: the bounds of rates, measured in the same run."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from fastdeit.benchmarks.harness.photographs import photograph
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import Case, Effort, measure
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.measured.rows import Row, with_bound
from fastdeit.models.flops import (
    MATRIX_SIDE,
    Peak,
    datasheet_peak,
    matrix_flops,
    peak_flops,
    precision_of,
)

COPY_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""How much one copy moves: far more than any cache."""
TRANSFER_BYTES = 1 << 30
NUM_JPEGS = 64


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a device can do in a precision."""

    peak: Peak
    """Of the datasheet, if it has one."""
    matrix_flops: float
    """Floating-point operations a second of a large matrix product."""
    what: str

    @classmethod
    def of(cls, compute: Compute) -> Ceiling:
        """Look up and measure; waits for the device."""
        side, peak = MATRIX_SIDE[compute.device.type], peak_flops(compute)
        # On a CPU the peak is that product already.
        is_cpu = compute.device.type == "cpu"
        rate = peak.flops_per_s if is_cpu else matrix_flops(compute, side)
        what = f"a {side}^3 matrix product in {precision_of(compute)}, {rate / 1e9:.0f} GFLOP/s"
        return cls(peak, rate, what)


def measure_ceilings(record: Record, device: str, precision: str, rounds: int) -> None:
    """Measure what the parts of a machine can do.

    Rows: copying within the device's memory (GB/s, read and written bytes both counted), a matrix
    product in each precision, that of `precision` first (TFLOP/s), copying from the host to a GPU
    (GB/s), and decoding by PIL on one core (img/s, of 500 x 375 pixels).
    """
    computes = all_precisions(choose_compute(device, precision))
    own = computes[0]
    measures: dict[str, Callable[[Effort], Row]] = {
        "copy within memory": partial(_row_of, "GB/s", partial(_copy_case, own)),
        **{f"product in {precision_of(each)}": partial(_product_row, each) for each in computes},
    }
    if own.device.type == "cuda":
        measures["copy from the host"] = partial(_row_of, "GB/s", partial(_transfer_case, own))
    measures["decoding"] = partial(_row_of, "img/s", decode_case)
    for number, (name, take) in enumerate(measures.items()):
        with record.part(f"ceilings: {name}"):
            record.add([take(record.effort(rounds, 1 / (len(measures) - number)))])
    own.set_switches()


def _row_of(unit: str, make: Callable[[], Case], effort: Effort) -> Row:
    """The row of a case, whose memory is free again."""
    (row,) = measure("ceilings", unit, [make()], effort)
    return row


def _product_row(compute: Compute, effort: Effort) -> Row:
    """The row of a matrix product, beside the datasheet."""
    return beside_datasheet(_row_of("TFLOP/s", partial(_matrix_case, compute), effort), compute)


def all_precisions(compute: Compute) -> list[Compute]:
    """A device in every precision whose products it is asked for; the given one first."""
    own = precision_of(compute)
    names = ("fp32", "tf32", "bf16") if compute.device.type == "cuda" else ("fp32",)
    return [
        choose_compute(str(compute.device), name)
        for name in (own, *(name for name in names if name != own))
    ]


def beside_datasheet(row: Row, compute: Compute) -> Row:
    """A matrix product's rate beside the peak of the GPU's datasheet, if that is known."""
    if compute.device.type != "cuda":
        return row
    name, precision = torch.cuda.get_device_name(compute.device), precision_of(compute)
    family, rate = datasheet_peak(name, precision)
    what = f"datasheet of {family}, dense {precision}"
    return row if rate is None else with_bound(row, rate / 1e12, what)


def _matrix_case(compute: Compute) -> Case:
    """A large matrix product."""
    side = MATRIX_SIDE[compute.device.type]
    dtype = compute.autocast_dtype or torch.float32
    # Not ones: a GPU's clock falls with the bits that change.
    left = torch.randn(side, side, device=compute.device).to(dtype)
    num = 16 if compute.device.type == "cuda" else 2
    teraflops = num * 2 * side**3 / 1e12

    def run() -> float:
        for _ in range(num):
            left @ left
        compute.synchronize()
        return teraflops

    name = f"{side}^3 matrix product, {precision_of(compute)}"
    return Case(name=name, run=run, before=compute.set_switches, note=compute.reason)


def _copy_case(compute: Compute) -> Case:
    """A copy from the device's memory into it."""
    kind = compute.device.type
    source = torch.ones(COPY_BYTES[kind], dtype=torch.uint8, device=compute.device)
    num = 10 if kind == "cuda" else 2
    run = partial(_copy, compute, torch.empty_like(source), source, num, 2)
    return Case(name="copy within memory", run=run, note="bytes read and bytes written counted")


def _transfer_case(compute: Compute) -> Case:
    """A copy from pinned memory of the host to a GPU."""
    source = torch.ones(TRANSFER_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=compute.device)
    run = partial(_copy, compute, target, source, 1, 1)
    return Case(name="copy from the host, pinned", run=run)


def _copy(compute: Compute, target: Tensor, source: Tensor, num: int, ways: int) -> float:
    """Copy so often; gigabytes that were moved, each counted so often."""
    for _ in range(num):
        target.copy_(source, non_blocking=True)
    compute.synchronize()
    return ways * num * source.nbytes / 1e9


def decode_case() -> Case:
    """Decode JPEGs of photographs one after another."""
    files = [_jpeg_bytes(number) for number in range(NUM_JPEGS)]

    def run() -> int:
        for file in files:
            Image.open(io.BytesIO(file)).convert("RGB").load()
        return len(files)

    size = sum(map(len, files)) / len(files) / 1000
    note = f"{NUM_JPEGS} pictures, {size:.0f} kB on average"
    return Case(name="decode by PIL, 500 px q90, one core", run=run, note=note)


def _jpeg_bytes(number: int) -> bytes:
    """One of our own pictures as a JPEG."""
    file = io.BytesIO()
    photograph(number).save(file, "JPEG", quality=90)
    return file.getvalue()
