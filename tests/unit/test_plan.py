"""The order: the same global batches whatever the processes, resuming is a seek."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.pipelines.plan.order import Plan

KEYS = np.random.default_rng(0).integers(0, 2**63, 1003).astype(np.uint64)


def make_plan(**changes: Any) -> Plan:
    """A training plan over 1,003 images."""
    values: dict[str, Any] = {
        "keys": KEYS,
        "batch_size": 48,
        "image_size": 32,
        "is_training": True,
        "repeats": 3,
        **changes,
    }
    return Plan(**values)


def global_steps(epoch: int, world_size: int, **changes: Any) -> list[list[tuple[int, int]]]:
    """Each step's (sample, copy) pairs over all processes, in the order of the ranks."""
    by_rank = [
        list(make_plan(rank=rank, world_size=world_size, **changes).steps(epoch))
        for rank in range(world_size)
    ]
    return [
        [
            pair
            for step in steps
            for pair in zip(step.samples.tolist(), step.copies.tolist(), strict=True)
        ]
        for steps in zip(*by_rank, strict=True)
    ]


@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
@pytest.mark.parametrize("is_training", [True, False])
def test_global_batches_do_not_depend_on_the_world_size(world_size: int, is_training: bool) -> None:
    """Any number of processes sees, together and in order, what one sees."""
    one = global_steps(4, 1, is_training=is_training)
    assert global_steps(4, world_size, is_training=is_training) == one


def test_resuming_is_a_seek() -> None:
    """Steps from the fifth on are the tail of the whole epoch."""
    whole, tail = list(make_plan().steps(2)), list(make_plan().steps(2, 5))
    assert [step.step for step in tail] == [step.step for step in whole[5:]]
    for left, right in zip(whole[5:], tail, strict=True):
        assert np.array_equal(left.samples, right.samples)
        assert np.array_equal(left.copies, right.copies)


def test_epoch_length_is_that_of_rasampler() -> None:
    """ImageNet with 3 repeats shows 1,281,024 samples of 427,008 images in 1,251 steps of 1,024."""
    keys = np.arange(1_281_167, dtype=np.uint64)
    plan = make_plan(keys=keys, batch_size=1024)
    assert plan.epoch_samples == 1_281_024 == math.floor(1_281_167 // 256 * 256)
    assert plan.num_steps == 1251
    samples, copies = plan.stream(0)
    assert len(np.unique(samples)) == 427_008
    assert np.array_equal(copies[:6], [0, 1, 2, 0, 1, 2])


def test_copies_follow_each_other() -> None:
    """An image's copies are neighbours, numbered from 0."""
    samples, copies = make_plan().stream(0)
    assert (samples[copies == 1] == samples[np.flatnonzero(copies == 1) - 1]).all()
    assert copies.max() == 2


def test_an_epoch_without_repeats_shows_each_image_once() -> None:
    """With one repeat the stream is a permutation, and another one in the next epoch."""
    plan = make_plan(repeats=1)
    first, second = plan.stream(0)[0], plan.stream(1)[0]
    assert np.array_equal(np.sort(first), np.arange(1003))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, make_plan(repeats=1, seed=1).stream(0)[0])


def test_order_goes_by_key_not_by_place() -> None:
    """Two containers that keep the images in another order show the same images."""
    shuffle = np.random.default_rng(1).permutation(len(KEYS))
    plan, other = make_plan(), make_plan(keys=KEYS[shuffle])
    assert np.array_equal(KEYS[plan.stream(3)[0]], KEYS[shuffle][other.stream(3)[0]])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_shows_each_image_once(world_size: int) -> None:
    """All processes together evaluate every sample exactly once, the last batch being smaller."""
    steps = global_steps(0, world_size, is_training=False)
    seen = [sample for step in steps for sample, _ in step]
    assert seen == list(range(1003))
    assert len(steps) == math.ceil(1003 / 48)


def test_a_batch_larger_than_the_epoch_is_refused() -> None:
    """A plan without a single step names the batch, the epoch's samples and the way out."""
    with pytest.raises(
        UserError, match=r"batch_size must be at most an epoch's samples \(768\). Found: 1000"
    ):
        make_plan(batch_size=1000)


def random_plan(random: np.random.Generator) -> dict[str, Any]:
    """Some plan: odd numbers of images, odd batch sizes, 1 to 4 repeats, either kind of order."""
    num = int(random.integers(9, 900))
    return {
        "keys": random.integers(0, 2**63, num).astype(np.uint64),
        "batch_size": int(random.integers(8, min(num, 100) if num > 256 else 9)),
        "repeats": int(random.integers(1, 5)),
        "seed": int(random.integers(0, 1000)),
        "is_training": bool(random.integers(0, 4)),
    }


@pytest.mark.parametrize("number", range(200))
def test_any_plan(number: int) -> None:
    """Any world size: the same global batches, all that an epoch must show, exact seeks."""
    random = np.random.default_rng(number)
    options, epoch = random_plan(random), int(random.integers(0, 300))
    plan = make_plan(**options)
    one = global_steps(epoch, 1, **options)
    for world_size in (2, 3, 4, 8):
        assert global_steps(epoch, world_size, **options) == one
        sizes = {
            len(step.samples)
            for rank in range(world_size)
            for step in make_plan(rank=rank, world_size=world_size, **options).steps(epoch)
        }
        assert max(sizes) <= -(-plan.batch_size // world_size)
    shown = [pair for step in one for pair in step]
    assert len(set(shown)) == len(shown), "a (sample, copy) is shown twice"
    num, repeats = len(options["keys"]), options["repeats"]
    if options["is_training"]:
        assert len(one) == plan.epoch_samples // plan.batch_size
        assert all(len(step) == plan.batch_size for step in one)
        images = [sample for sample, copy in shown if copy == 0]
        assert len(images) == -(-len(shown) // repeats)
        # No image loses a copy but the one that the end of the epoch cuts through.
        whole = np.bincount([sample for sample, _ in shown], minlength=num)
        assert ((whole > 0) & (whole < repeats)).sum() <= 1
    else:
        assert [sample for sample, _ in shown] == list(range(num))
    first = int(random.integers(0, len(one) + 1))
    rank = int(random.integers(0, 4))
    sought = list(make_plan(rank=rank, world_size=4, **options).steps(epoch, first))
    whole_epoch = list(make_plan(rank=rank, world_size=4, **options).steps(epoch))
    assert len(sought) == len(one) - first
    for left, right in zip(sought, whole_epoch[first:], strict=True):
        assert (left.step, left.epoch) == (right.step, right.epoch)
        assert np.array_equal(left.samples, right.samples)
        assert np.array_equal(left.copies, right.copies)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3, "world_size": 3}, r"rank must be from 0 to world_size - 1 \(2\). Found: 3"),
        (
            {"batch_size": 7, "world_size": 8},
            r"batch_size must be at least the number of processes \(8\). Found: 7",
        ),
        (
            {"order": "upstream", "batch_size": 49, "world_size": 2},
            r"batch_size must be a multiple .* Found: 49.* leave out --compat upstream",
        ),
        ({"keys": KEYS[:0]}, "a dataset must hold an image. Found: none"),
    ],
)
def test_impossible_plans(change: dict[str, Any], message: str) -> None:
    """Each is one error with the value and the rule."""
    with pytest.raises(UserError, match=message):
        make_plan(**change)
