"""Augmented batches in their order; on a GPU one ahead, on a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from augment_batches import make_batch

from fastdeit.augment import augment, augmented
from fastdeit.batch import Batch
from fastdeit.config import AugmentConfig
from fastdeit.machine.device import choose_compute
from fastdeit.machine.side_stream import one_ahead

CONFIG = AugmentConfig()


def batches(num: int, taken: list[int]) -> Iterator[Batch]:
    """Some batches, and a note of each that was asked for."""
    for step in range(num):
        taken.append(step)
        yield replace(make_batch(6, 32, step), step=step)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_come_in_order(device: str) -> None:
    """Each is what `augment` gives for it; on a GPU the next one is asked for before the step."""
    compute = choose_compute(device, "bf16")
    taken: list[int] = []
    expected = [augment(b.to(compute.device), CONFIG, 3, 0, torch.bfloat16) for b in batches(4, [])]
    found = []
    for step, shown in enumerate(augmented(batches(4, taken), CONFIG, 3, compute)):
        assert shown.step == step
        assert len(taken) == (step + 1 if device == "cpu" else min(step + 2, 4))
        found.append(shown.images * 1)  # work on the caller's stream
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other.images)
        assert one.dtype == torch.bfloat16


def test_parts_are_the_batch() -> None:
    """In order, none empty, sizes as equal as can be, images and targets together."""
    whole = augment(make_batch(7, 32, 0), CONFIG, 0)
    for num, sizes in ((1, [7]), (3, [2, 2, 3]), (9, [1] * 7)):
        parts = list(whole.parts(num))
        assert [len(part.images) for part in parts] == sizes
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        for name in ("labels", "partner_labels", "weight"):
            joined = torch.cat([getattr(part.targets, name) for part in parts])
            assert torch.equal(joined, getattr(whole.targets, name))


def test_an_error_of_the_loader_reaches_the_caller() -> None:
    """And nothing is handed out after it."""

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = one_ahead(broken(), torch.device("cpu"), lambda _: ())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
