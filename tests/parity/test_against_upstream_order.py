"""`--compat upstream` against the samplers of timm and torch, of which RASampler is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader, DistributedSampler

from fastdeit.pipelines.plan.order import Plan


def upstream_steps(
    num: int, repeats: int, world_size: int, rank: int, local_batch: int, epoch: int
) -> list[list[int]]:
    """What a rank of the published code sees: its sampler, dealt by a DataLoader."""
    dataset: Any = range(num)
    sampler: Any
    if repeats > 1:
        sampler = RepeatAugSampler(
            dataset, num_replicas=world_size, rank=rank, num_repeats=repeats, selected_round=256
        )
    else:
        sampler = DistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True)
    sampler.set_epoch(epoch)
    loader: DataLoader[int] = DataLoader(
        dataset, batch_size=local_batch, sampler=sampler, drop_last=True
    )
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("num", [256, 513, 1003])
@pytest.mark.parametrize("repeats", [1, 2, 3, 4])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_each_rank_sees_upstreams_batches(num: int, repeats: int, world_size: int) -> None:
    """Every step of every rank holds the same samples in the same order, in several epochs."""
    local_batch = 7
    for epoch in (0, 5):
        for rank in range(world_size):
            plan = Plan(
                keys=np.arange(num, dtype=np.uint64),
                batch_size=local_batch * world_size,
                image_size=32,
                is_training=True,
                seed=9,
                repeats=repeats,
                order="upstream",
                rank=rank,
                world_size=world_size,
            )
            steps = list(plan.steps(epoch))
            expected = upstream_steps(num, repeats, world_size, rank, local_batch, epoch)
            assert [step.samples.tolist() for step in steps] == expected
            assert len(steps) == plan.num_steps


def test_copies_are_told_apart() -> None:
    """A (sample, copy) is shown once, the samples that pad the end included."""
    for world_size, repeats in ((8, 1), (3, 3)):
        plan = Plan(
            keys=np.arange(1003, dtype=np.uint64),
            batch_size=world_size,
            image_size=32,
            is_training=True,
            repeats=repeats,
            order="upstream",
            world_size=world_size,
        )
        samples, copies = plan.stream(0)
        pairs = set(zip(samples.tolist(), copies.tolist(), strict=True))
        assert len(pairs) == len(samples) == plan.epoch_samples


def test_one_process_has_no_repeats() -> None:
    """As upstream, which takes RASampler only if it is distributed."""
    plan = Plan(
        keys=np.arange(1003, dtype=np.uint64),
        batch_size=17,
        image_size=32,
        is_training=True,
        repeats=3,
        order="upstream",
    )
    samples, copies = plan.stream(0)
    assert len(set(samples.tolist())) == len(samples) == 59 * 17
    assert copies.max() == 0
