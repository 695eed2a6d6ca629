"""Policies: timm's strings, the same images from the same decisions, the same distributions."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.autoaugment as torchvision_policies
from nightly import often
from numpy.typing import NDArray
from pictures_to_move import pictures
from PIL import Image
from scipy import stats
from timm.data.auto_augment import AugmentOp
from torchvision.transforms import ColorJitter

from fastdeit import keyed
from fastdeit.augment import Operations, apply_operations, sample_operations
from fastdeit.augment.decisions import sample_jitter
from fastdeit.augment.operate import Implementation
from fastdeit.augment.timm_on_pil import apply_with_pil, timm_policy
from fastdeit.keyed import Purpose
from fastdeit.policies import NAMED_OPS, Op, Policy, parse_policy

PAPER = "rand-m9-mstd0.5-inc1"
RAND = [
    PAPER,
    "rand",
    "rand-n3-m7-mstd1",
    "rand-m12-mmax30-p0.7-inc1",
    "rand-mstd101-tweights",
    "rand-mstd100-n15-tweights",
    "rand-m6-t3a",
    "rand-n3-t3aw-mstd0.5",
]
LEARNED = ["original", "originalr-mstd0.5", "v0", "v0r", "3a"]
P_LEAST = 0.001


def states(num: int, purpose: Purpose = Purpose.POLICY) -> keyed.U64:
    """Keyed streams."""
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(7, purpose, 0, keys, np.zeros(num, dtype=np.int64))


def policy_of(config: str) -> Policy:
    """A policy that is one."""
    policy = parse_policy(config)
    assert policy is not None
    return policy


def as_step(op: AugmentOp) -> tuple[str, float, float]:
    """What timm's object is made of."""
    return op.name, op.prob, op.magnitude


@pytest.mark.parametrize("config", RAND)
def test_against_timm_rand_strings(config: str) -> None:
    """The same operations, probabilities, magnitudes, noise and weights."""
    policy, timm = policy_of(config), timm_policy(config)
    assert [tuple(row[0]) for row in policy.rows] == [as_step(op) for op in timm.ops]
    assert policy.num_layers == timm.num_layers
    assert policy.magnitude_std == timm.ops[0].magnitude_std
    assert policy.magnitude_max == (timm.ops[0].magnitude_max or 10)
    if timm.choice_weights is None:
        assert policy.weights is None
    else:
        weights = np.array(policy.weights)
        np.testing.assert_allclose(weights / weights.sum(), timm.choice_weights, rtol=1e-12)


@pytest.mark.parametrize("config", LEARNED)
def test_against_timm_learned_strings(config: str) -> None:
    """The same rows of the same steps."""
    policy, timm = policy_of(config), timm_policy(config)
    expected = [[as_step(op) for op in row] for row in timm.policy]
    assert [[tuple(step) for step in row] for row in policy.rows] == expected
    assert policy.magnitude_std == timm.policy[0][0].magnitude_std


def by_pil(image: NDArray[np.uint8], operations: Operations, number: int) -> NDArray[np.uint8]:
    """What timm's functions make of an image, given what was drawn for it."""
    pil = Image.fromarray(image)
    drawn = zip(
        operations.op[:, number],
        operations.argument[:, number],
        operations.is_bilinear[:, number],
        strict=True,
    )
    for op, argument, is_bilinear in drawn:
        pil = apply_with_pil(pil, Op(op), argument, operations.fill, is_bilinear)
    return np.asarray(pil)


@pytest.mark.pillow_12
@pytest.mark.parametrize("implementation", ["torch", "numba"])
@pytest.mark.parametrize("config", [*RAND, *LEARNED, "ta_wide"])
def test_against_timm_on_the_same_decisions(config: str, implementation: Implementation) -> None:
    """Whole policies give timm's image in every byte, each image with its own decisions."""
    num = 120
    images = np.resize(pictures(72, 88), (num, 72, 88, 3))
    operations = sample_operations(policy_of(config), states(num), 72, 88, "random")
    found = apply_operations(torch.from_numpy(images), operations, implementation).numpy()
    for i in range(num):
        expected = by_pil(images[i], operations, i)
        assert np.array_equal(found[i], expected), (i, operations.op[:, i])


def timm_draws(config: str, num: int, width: int) -> tuple[list[tuple[str, float]], int]:
    """(name, argument) of all that timm applies to `num` images, and how many it leaves as is."""
    timm = timm_policy(config)
    applied: list[tuple[str, float]] = []
    rows = timm.ops if config.startswith("rand") else [op for row in timm.policy for op in row]
    for op in rows:

        def record(image: int, *args: float, name: str = op.name, **_: Any) -> int:
            scale = width if name.endswith("Rel") else 1
            applied.append((name, args[0] * scale if args else 0.0))
            return image + 1

        op.aug_fn = record
    return applied, sum(timm(0) == 0 for _ in range(num))


def our_draws(config: str, num: int, width: int) -> tuple[list[tuple[str, float]], int]:
    """The same of ours; only for policies in which an `Op` has one name."""
    policy = policy_of(config)
    drawn = sample_operations(policy, states(num), width, width)
    names = {NAMED_OPS[name].op: name for name in policy.names}
    assert len(names) == len(policy.names)
    applied = [
        (names[Op(op)], float(argument))
        for op, argument in zip(drawn.op.ravel(), drawn.argument.ravel(), strict=True)
        if op != Op.IDENTITY
    ]
    return applied, int((drawn.op == Op.IDENTITY).all(0).sum())


@pytest.mark.slow
@pytest.mark.parametrize("config", [PAPER, "rand-n3-tweights-mstd0.5", "v0-mstd0.5"])
def test_against_timm_distributions(config: str) -> None:
    """Frequencies, untouched images, magnitudes and signs agree with timm's."""
    num = often(50_000, 200_000)
    random.seed(1)
    np.random.seed(1)
    theirs, their_untouched = timm_draws(config, num, 224)
    ours, our_untouched = our_draws(config, num, 224)
    names = sorted({name for name, _ in theirs})
    assert names == sorted({name for name, _ in ours})
    counts = [[Counter(name for name, _ in draws)[n] for n in names] for draws in (theirs, ours)]
    assert stats.chi2_contingency(counts).pvalue > P_LEAST
    untouched = [[their_untouched, num - their_untouched], [our_untouched, num - our_untouched]]
    assert stats.chi2_contingency(untouched).pvalue > P_LEAST
    if config == PAPER:
        assert abs(our_untouched / num - 0.25) < 0.005
        assert stats.chisquare(counts[1]).pvalue > P_LEAST
    for name in names:
        values = [np.array([v for n, v in draws if n == name]) for draws in (theirs, ours)]
        if len(np.unique(values[0])) > 20:
            assert stats.ks_2samp(*values).pvalue > P_LEAST, name
        else:
            kinds = np.unique(np.concatenate(values))
            table = np.array([[(v == kind).sum() for kind in kinds] for v in values])
            table = table[:, table.sum(0) > 20]
            assert table.shape[1] == 1 or stats.chi2_contingency(table).pvalue > P_LEAST, name
        if NAMED_OPS[name].has_sign and not name.endswith("Increasing"):
            signs = [[(v > 0).sum(), (v < 0).sum()] for v in values]
            assert stats.chi2_contingency(signs).pvalue > P_LEAST, name
            assert stats.binomtest(int(signs[1][0]), int(sum(signs[1]))).pvalue > P_LEAST, name


@pytest.mark.slow
def test_against_torchvision_trivial_augment_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations and arguments have torchvision's frequencies."""
    num = 40_000
    torch.manual_seed(0)
    theirs: list[tuple[str, float]] = []

    def record(image: Any, name: str, magnitude: float, **_: Any) -> Any:
        theirs.append((name, magnitude))
        return image

    monkeypatch.setattr(torchvision_policies, "_apply_op", record)
    transform = torchvision_policies.TrivialAugmentWide()
    image = Image.new("RGB", (64, 64))
    for _ in range(num):
        transform(image)
    policy = policy_of("ta_wide")
    drawn = sample_operations(policy, states(num), 64, 64)
    ops = [NAMED_OPS[f"Wide{name}"].op for name, _ in theirs]
    counts = np.array([np.bincount(x, minlength=18) for x in (drawn.op[0], ops)])
    assert stats.chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue > P_LEAST
    for name, scale in (("Rotate", 1.0), ("ShearX", 1.0), ("Solarize", 1.0)):
        values = drawn.argument[0][drawn.op[0] == NAMED_OPS[f"Wide{name}"].op]
        expected = np.array([m for n, m in theirs if n == name]) * scale
        assert stats.ks_2samp(values, expected).pvalue > P_LEAST, name


def test_operations_do_not_depend_on_the_batch() -> None:
    """What an image gets is the same alone, and another for another copy."""
    policy, streams = policy_of(PAPER), states(50)
    together = sample_operations(policy, streams, 64, 64)
    for i in (0, 7, 49):
        alone = sample_operations(policy, streams[i : i + 1], 64, 64)
        assert np.array_equal(alone.op[:, 0], together.op[:, i])
        assert np.array_equal(alone.argument[:, 0], together.argument[:, i])


@pytest.mark.parametrize("ranges", [(0.3, 0.4, 1.2, 0.0), (0.1, 0.0, 0.2, 0.5)])
def test_against_torchvision_jitter(ranges: tuple[float, float, float, float]) -> None:
    """A colour jitter has torchvision's factors and orders, and its pixels given both."""
    num = 4000
    drawn = sample_jitter(ranges, states(num, Purpose.JITTER))
    jitter = ColorJitter(*ranges)
    torch.manual_seed(0)
    limits = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    params = [ColorJitter.get_params(*limits) for _ in range(num)]
    for number, op in enumerate((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE)):
        values = drawn.argument[drawn.op == op]
        if ranges[number] == 0:
            assert len(values) == 0
            continue
        assert len(values) == num
        expected = np.array([own[number + 1] for own in params])
        if op == Op.HUE:
            expected = np.trunc(expected * 255)
        assert stats.ks_2samp(values, expected).pvalue > P_LEAST
    order = np.array([own[0].tolist() for own in params])
    place = {int(op): i for i, op in enumerate((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE))}
    ours = Counter(tuple(place[op] for op in row if op) for row in drawn.op.T.tolist())
    theirs = Counter(tuple(n for n in row if ranges[n]) for row in order.tolist())
    table = [[count[key] for key in sorted(theirs)] for count in (ours, theirs)]
    assert set(ours) == set(theirs)
    assert stats.chi2_contingency(table).pvalue > P_LEAST
    images = np.resize(pictures(30, 40), (20, 30, 40, 3))
    few = Operations(
        drawn.op[:, :20], drawn.argument[:, :20], drawn.is_bilinear[:, :20], drawn.fill
    )
    found = apply_operations(torch.from_numpy(images), few).numpy()
    for i in range(20):
        assert np.array_equal(found[i], by_pil(images[i], few, i)), i
