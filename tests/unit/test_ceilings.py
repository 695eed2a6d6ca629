"""What a machine can do is measured as it is asked for."""

from __future__ import annotations

import pytest
import torch
from bench_here import Heard

from fastdeit.benchmarks.cases import ceiling_rates as module
from fastdeit.benchmarks.cases.ceiling_rates import (
    all_precisions,
    beside_datasheet,
    measure_ceilings,
)
from fastdeit.machine.device import Compute
from fastdeit.measured.rows import Row
from fastdeit.models.flops import MATRIX_SIDE

CPU = Compute(torch.device("cpu"), None, "a test")
GPU = Compute(torch.device("cuda"), torch.bfloat16, "a test")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices and copies."""
    monkeypatch.setitem(MATRIX_SIDE, "cpu", 256)
    monkeypatch.setitem(module.COPY_BYTES, "cpu", 1 << 24)


def test_rates_are_of_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work over time, by a clock that the test keeps."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    monkeypatch.setattr("fastdeit.benchmarks.harness.rounds.time.perf_counter", clock)
    heard = Heard()
    measure_ceilings(heard.record, "cpu", "fp32", 2)
    rows = {row.name: row for row in heard.rows}
    product = rows["256^3 matrix product, fp32"]
    assert product.unit == "TFLOP/s"
    assert product.median == pytest.approx(2 * 2 * 256**3 / 1e12 / 0.5)
    copied = rows["copy within memory"]
    assert (copied.unit, copied.median) == ("GB/s", pytest.approx(2 * 2 * 2**24 / 1e9 / 0.5))
    decoded = rows["decode by PIL, 500 px q90, one core"]
    assert (decoded.unit, decoded.median) == ("img/s", 128)
    assert len(rows) == 3


def test_precisions() -> None:
    """A CPU has one; the asked one comes first."""
    assert [compute.autocast_dtype for compute in all_precisions(CPU)] == [None]


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989.5), ("a GPU that nobody knows", None)]
)
def test_a_product_stands_beside_the_datasheet(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is one."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    row = Row(case="ceilings", name="a", unit="TFLOP/s", n=1, median=700, p20=700, p80=700)
    found = beside_datasheet(row, GPU)
    assert found.bound == peak
    assert found.frac_of_bound == (None if peak is None else pytest.approx(700 / peak))
    assert beside_datasheet(row, CPU).bound is None
