"""Decisions: every option reaches them, no two share a draw, each is keyed by everything."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from augment_batches import make_batch
from numpy.typing import NDArray
from scipy import stats
from timm.data import IMAGENET_DEFAULT_MEAN

from fastdeit import keyed
from fastdeit.augment import apply_augmentation, compose, normalise, sample_augmentation
from fastdeit.augment.decisions import Operations, sample_jitter, sample_operations
from fastdeit.augment.erase import _polar, apply_erasure, keyed_normal, sample_erasure
from fastdeit.augment.mix import Mix, _sample_weights, apply_mix, box_around, sample_mix
from fastdeit.batch import Batch
from fastdeit.config.augment import AugmentConfig
from fastdeit.keyed import Purpose
from fastdeit.policies import Op, Policy, one_operation, parse_policy
from fastdeit.policies.policy import BLACK, FILL

P_LEAST = 0.001
OTHER = AugmentConfig(
    hflip_prob=0.3,
    auto_augment="rand-m7-n3-mstd1",
    augment_interpolation="random",
    color_jitter=(0.1, 0.2, 0.3, 0.4),
    erase_prob=0.6,
    erase_mode="rand",
    erase_count=3,
    erase_splits=2,
    mixup_alpha=0.4,
    cutmix_alpha=2.5,
    mix_prob=0.8,
    switch_prob=0.3,
    mix_mode="elem",
    augment_order="timm-prefetcher",
)


def assert_same(found: Any, expected: Any) -> None:
    """Two of our dataclasses of arrays are equal in every field."""
    assert type(found) is type(expected)
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert np.array_equal(ours, theirs), field.name


def policy_of(config: str) -> Policy:
    """A policy that is one."""
    policy = parse_policy(config)
    assert policy is not None
    return policy


def states(num: int, purpose: Purpose = Purpose.POLICY) -> keyed.U64:
    """Keyed streams."""
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(3, purpose, 1, keys, np.zeros(num, dtype=np.int64))


@pytest.mark.parametrize("minmax", [None, (0.3, 0.7)])
def test_every_option_reaches_the_decisions(minmax: tuple[float, float] | None) -> None:
    """With no value at its default, decisions are those of the parts called with these values."""
    seed, epoch, step, height, width = 5, 2, 3, 24, 40
    batch = make_batch(12)
    images = torch.zeros(12, height, width, 3, dtype=torch.uint8)
    batch = replace(batch, images_nhwc_u8=images, copies=np.arange(12) % 3)
    rules = replace(OTHER, cutmix_alpha=2.5 if minmax is None else 1.0, cutmix_minmax=minmax)
    found = sample_augmentation(rules, batch, seed)

    def stream(purpose: Purpose) -> keyed.U64:
        return keyed.sample_states(seed, purpose, epoch, batch.sample_keys, batch.copies)

    assert np.array_equal(found.flip, keyed.uniform(stream(Purpose.FLIP), 0) < 0.3)
    policy, jitter = found.operations
    expected = sample_operations(
        policy_of(OTHER.auto_augment), stream(Purpose.POLICY), height, width, "random"
    )
    assert_same(policy, expected)
    assert_same(jitter, sample_jitter((0.1, 0.2, 0.3, 0.4), stream(Purpose.JITTER)))
    assert_same(
        found.erasure,
        sample_erasure(stream(Purpose.ERASE), 0.6, height, width, "rand", 3, 2),
    )
    generator = keyed.step_generator(seed, Purpose.MIX, epoch, step, int(batch.sample_keys[0]))
    assert_same(found.mix, sample_mix(rules, generator, 12, height, width))
    assert found.order == "timm-prefetcher"


@pytest.mark.parametrize("mode", ["pair", "elem"])
@pytest.mark.parametrize("erase_mode", ["pixel", "rand", "const"])
@pytest.mark.parametrize("num", [7, 12])
def test_blocks_keep_each_images_decisions(
    mode: Any, erase_mode: Any, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small blocks, images get their own weights, boxes and colours, as in the whole batch."""
    monkeypatch.setattr(compose, "block_size", lambda *_: 2)
    batch = make_batch(num)
    config = AugmentConfig(
        hflip_prob=0, auto_augment="none", erase_prob=0.8, erase_mode=erase_mode, mix_mode=mode
    )
    drawn = sample_augmentation(config, batch, 0)
    assert drawn.erasure is not None
    assert drawn.mix is not None
    found, _ = apply_augmentation(batch, drawn)
    values = normalise(batch.images_nhwc_u8).permute(0, 2, 3, 1)
    expected = apply_mix(apply_erasure(values, drawn.erasure), drawn.mix)
    assert torch.allclose(found, expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("other", ["seed", "epoch", "key", "copy"])
def test_each_decision_is_keyed_by_everything(other: str) -> None:
    """Another seed, epoch, key or copy changes flips, operations, jitter and rectangles."""
    batch, seed = make_batch(64), 1
    changed: Batch = {
        "seed": batch,
        "epoch": replace(batch, epoch=9),
        "key": replace(batch, sample_keys=batch.sample_keys + np.uint64(1000)),
        "copy": replace(batch, copies=batch.copies + 1),
    }[other]
    one = sample_augmentation(OTHER, batch, seed)
    two = sample_augmentation(OTHER, changed, seed + (other == "seed"))
    assert one.erasure is not None
    assert two.erasure is not None
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (one.flip, two.flip),
        (one.operations[0].argument, two.operations[0].argument),
        (one.operations[1].argument, two.operations[1].argument),
        (one.erasure.noise_seeds, two.erasure.noise_seeds),
    ]
    for first, second in pairs:
        assert (first != second).mean() > 0.2


def test_a_steps_generator_is_keyed_by_everything() -> None:
    """Each of seed, purpose, epoch, step and word counts; the numbers stay what they are."""
    given: dict[str, Any] = {"seed": 1, "purpose": Purpose.MIX, "epoch": 2, "step": 3, "word": 4}
    first = keyed.step_generator(**given).random()
    changes = {"seed": 9, "purpose": Purpose.INIT, "epoch": 9, "step": 9, "word": 0}
    draws = [keyed.step_generator(**{**given, k: v}).random() for k, v in changes.items()]
    assert len({first, *draws}) == 6
    assert keyed.step_generator(**given).random() == first


def test_interpolation_of_each_operation() -> None:
    """All bicubic, all bilinear, or half of the applied ones, whatever comes next."""
    policy, streams = policy_of("rand-m9-mstd0.5-inc1"), states(20_000)
    assert not sample_operations(policy, streams, 8, 8, "bicubic").is_bilinear.any()
    assert sample_operations(policy, streams, 8, 8, "bilinear").is_bilinear.all()
    mixed = sample_operations(policy, streams, 8, 8, "random")
    for slot in range(2):
        for other in range(2):
            applied = mixed.op[other] != Op.IDENTITY
            chosen = mixed.is_bilinear[slot][applied]
            assert stats.binomtest(int(chosen.sum()), len(chosen)).pvalue > P_LEAST


def test_magnitudes_beyond_ten_and_uniform_ones() -> None:
    """The limit is mmax; an infinite deviation is uniform from 0; a blur has its own draw."""
    drawn = sample_operations(policy_of("rand-m25-mmax30-mstd3-inc1"), states(20_000), 8, 8)
    degrees = np.abs(drawn.argument[drawn.op == Op.ROTATE])
    assert 89.9 < degrees.max() <= 90
    below = degrees[degrees < 90]
    assert stats.kstest(below, stats.truncnorm(-25 / 3, 5 / 3, 75, 9).cdf).pvalue > P_LEAST
    drawn = sample_operations(policy_of("rand-m8-mstd101"), states(20_000), 8, 8)
    degrees = np.abs(drawn.argument[drawn.op == Op.ROTATE])
    assert stats.kstest(degrees, stats.uniform(0, 24).cdf).pvalue > P_LEAST
    drawn = sample_operations(policy_of("3a"), states(20_000), 8, 8)
    radii = drawn.argument[drawn.op == Op.GAUSSIAN_BLUR]
    assert stats.kstest(radii, stats.uniform(0.1, 1.9).cdf).pvalue > P_LEAST
    noisy = sample_operations(policy_of("3a-mstd3"), states(20_000), 8, 8)
    plain = radii, noisy.argument[noisy.op == Op.GAUSSIAN_BLUR]
    unclipped = plain[1] == plain[0]  # noise above level 10 is cut off
    assert 0.4 < unclipped.mean() < 0.6
    for radius in (plain[0], np.abs(plain[0] - 1.05)):
        assert abs(stats.spearmanr(unclipped, radius).statistic) < 0.05


def test_fill_is_the_mean_or_black() -> None:
    """Timm's rounded mean; black for TrivialAugment, as torchvision."""
    assert tuple(min(255, round(255 * x)) for x in IMAGENET_DEFAULT_MEAN) == FILL
    for config, fill in (("rand-m9", FILL), ("original", FILL), ("ta_wide", BLACK)):
        assert sample_operations(policy_of(config), states(3), 8, 8).fill == fill
    one = sample_operations(one_operation("Rotate", 20), states(3), 8, 8)
    assert np.abs(one.argument).tolist() == [[60.0] * 3]


def test_jitter_draws_are_independent() -> None:
    """Factors and places of a jitter share no draw; the hue's steps are torchvision's."""
    streams = states(20_000, Purpose.JITTER)
    drawn: Operations = sample_jitter((0.5, 0.5, 0.5, 0.5), streams)
    values, places = [], []
    for op in (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE):
        slot, image = np.nonzero(drawn.op == op)
        order = np.argsort(image)
        values.append(drawn.argument[slot, image][order])
        places.append(slot[order])
    table = np.corrcoef(np.stack([*values, *places]).astype(float))
    assert np.abs(table[:4, :4] - np.eye(4)).max() < 0.03
    assert np.abs(table[:4, 4:]).max() < 0.03
    expected = np.trunc((-0.5 + keyed.uniform(streams, 3)) * 255)
    assert np.array_equal(values[3], expected)


def test_erasing_draws_are_independent() -> None:
    """Every rectangle has a seed of its own, which is not the draw that decides about erasing."""
    streams = states(2000, Purpose.ERASE)
    erasure = sample_erasure(streams, 1.0, 32, 32, max_count=3)
    assert len(np.unique(erasure.noise_seeds)) == erasure.noise_seeds.size
    assert np.array_equal(erasure.noise_seeds[0].view(np.uint64), keyed.draw(streams, 1))


def test_noise_of_near_places_is_independent() -> None:
    """No channel repeats another one at the same place, the next or the doubled one."""
    place = torch.arange(60_000)
    noise = keyed_normal(torch.full_like(place, 5), place).double()
    assert len(torch.unique(noise)) > 0.98 * noise.numel()
    for shift in (1, 2):
        both = torch.cat((noise[shift:], noise[:-shift]), 1).T
        assert (torch.corrcoef(both) - torch.eye(6)).abs().max() < 0.025
    doubled = torch.cat((noise[:30_000], noise[1::2], noise[::2]), 1).T
    assert (torch.corrcoef(doubled)[:3, 3:]).abs().max() < 0.03


def test_noise_is_finite_for_all_bits() -> None:
    """The least and the greatest uniform numbers give finite noise."""
    for values in _polar(torch.tensor([0, -1, 1 << 40, (1 << 40) - 1])):
        assert values.isfinite().all()


def test_boxes_of_one_size_at_other_places() -> None:
    """Images with equal weights but other boxes are not taken for alike."""
    boxes = np.array([[0, 2, 0, 2], [4, 6, 4, 6], [1, 3, 2, 4]], dtype=np.int64)
    mix = Mix(np.full(3, 0.75), np.ones(3, dtype=bool), boxes)
    images = torch.randn(3, 8, 8, 3)
    found = apply_mix(images, mix)
    for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
        expected = images[i].clone()
        expected[top:bottom, left:right] = images[2 - i, top:bottom, left:right]
        assert torch.equal(found[i], expected)


def test_weights_of_images_are_float32() -> None:
    """Timm goes on in float32 where each image has its weight; sides of boxes can differ by it."""
    generator = keyed.step_generator(0, Purpose.MIX, 0, 0)
    weights, _ = _sample_weights(AugmentConfig(mix_mode="elem"), generator, 8)
    assert weights.dtype == np.float32
    differing = [
        w
        for w in np.linspace(0, 1, 20_001)
        if box_around(w, 50, 50, 100, 100) != box_around(np.float32(w), 50, 50, 100, 100)
    ]
    assert differing


@pytest.mark.parametrize("given", [(), (0.3,), (0.1, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4)])
def test_one_jitter_number_does_not_turn_the_hue(given: tuple[float, ...]) -> None:
    """One number is for brightness, contrast and saturation; the fourth is the hue."""
    expected = {0: (0, 0, 0, 0), 1: (0.3, 0.3, 0.3, 0), 3: (0.1, 0.2, 0.3, 0)}
    assert AugmentConfig(color_jitter=given).jitter == expected.get(len(given), given)
