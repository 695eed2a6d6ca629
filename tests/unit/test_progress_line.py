"""The line beside the bar of training: every number with its unit, in 100 columns."""

from __future__ import annotations

from typing import Any

import pytest

from fastdeit.text.figures import duration
from fastdeit.text.progress import progress_text

ROW: dict[str, Any] = {
    "kind": "train",
    "epoch": 12,
    "step": 15012,
    "loss": 6.9078,
    "lr": 1e-3,
    "img_per_s": 3120.4,
    "data_wait_frac": 0.021,
    "mfu": 0.412,
    "gpu_memory_gib": 61.2,
    "left_s": 27 * 3600 + 50 * 60,
    "left_is_lower_bound": False,
    "in_budget": True,
    "elapsed_s": 3600.0,
}
NUMBERS = "loss 6.908, lr 1.0e-03, 3120 img/s, wait 2%, MFU 41%, 61 GiB"


def test_all_of_it() -> None:
    """Numbers, the end and the budget."""
    assert progress_text(ROW, 72) == f"{NUMBERS}, ends in 27 h 50 min, inside 72 h"
    assert progress_text(ROW) == f"{NUMBERS}, ends in 27 h 50 min"


def test_over_the_budget() -> None:
    """Over by what the whole run takes, the time so far included."""
    row = {**ROW, "elapsed_s": 52.5 * 3600}
    assert progress_text(row, 72) == f"{NUMBERS}, ends in 27 h 50 min, 8 h 20 min over 72 h"


def test_a_lower_bound_says_no_more_than_it_knows() -> None:
    """Before the first evaluation it is no promise; too long it is already."""
    row = {**ROW, "left_is_lower_bound": True}
    assert progress_text(row, 72) == f"{NUMBERS}, ends in at least 27 h 50 min"
    assert progress_text(row, 20).endswith("ends in at least 27 h 50 min, 8 h 50 min over 20 h")


def test_what_is_not_known_is_left_out() -> None:
    """On a CPU, in the first window."""
    row = {**ROW, "mfu": None, "left_s": None, "in_budget": None}
    del row["gpu_memory_gib"]
    assert progress_text(row, 72) == "loss 6.908, lr 1.0e-03, 3120 img/s, wait 2%"


def test_zero_is_a_number() -> None:
    """A loader that never makes training wait, and a device that does next to nothing."""
    row = {**ROW, "data_wait_frac": 0.0, "mfu": 0.0, "left_s": 0.0}
    assert "wait 0%, MFU 0%" in progress_text(row)
    assert progress_text(row).endswith("ends in 0 s")


def test_the_widest_line_fits() -> None:
    """Every number as long as it gets."""
    row = {
        **ROW,
        "img_per_s": 99999.0,
        "data_wait_frac": 0.99,
        "mfu": 0.99,
        "gpu_memory_gib": 139.0,
        "left_s": 47 * 3600 + 59 * 60,
        "elapsed_s": 71 * 3600,
    }
    assert progress_text(row, 72).endswith("ends in 47 h 59 min, 47 h over 72 h")
    assert len(progress_text(row, 72)) <= 100
    assert len(progress_text({**row, "left_is_lower_bound": True}, 719)) <= 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (3599, "1 h"),
        (12 * 60, "12 min"),
        (27 * 3600 + 50 * 60, "27 h 50 min"),
        (72 * 3600, "3 d"),
        (47 * 3600, "47 h"),
        (99 * 3600 + 3590, "4 d 4 h"),
        (5 * 86400 + 3 * 3600, "5 d 3 h"),
        (6 * 86400, "6 d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """Two units at most, rounded up across units."""
    assert duration(seconds) == text
