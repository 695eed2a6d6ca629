"""Normalising, erasing and mixing against timm's and torchvision's own functions."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from timm.data.mixup import FastCollateMixup, Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from torchvision import transforms

from fastdeit import UserError, keyed
from fastdeit.augment import dense_targets, normalise
from fastdeit.augment.compose import MEAN, STD
from fastdeit.augment.erase import EraseMode, apply_erasure, keyed_normal, sample_erasure
from fastdeit.augment.mix import (
    MixedTargets,
    apply_mix,
    mix_targets,
    sample_mix,
)
from fastdeit.config.augment import AugmentConfig, MixMode
from fastdeit.keyed import Purpose
from fastdeit.training.losses import mixed_cross_entropy

NUM_CLASSES = 11


def states(num: int) -> keyed.U64:
    """Keyed streams for erasing."""
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(0, Purpose.ERASE, 0, keys, np.zeros(num, dtype=np.int64))


def test_against_torchvision_normalise() -> None:
    """Normalising equals ToTensor and Normalize, and the memory is channels-last."""
    images = torch.randint(0, 256, (6, 32, 40, 3), dtype=torch.uint8)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    expected = torch.stack([transform(image.numpy()) for image in images])
    found = normalise(images)
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(images.float()), found)


class AnswersToTimm:
    """Our draws of one image, in the order in which timm asks for them.

    timm asks whether to erase, for a count (if there is a choice), then in each attempt for an
    area, an aspect and, where they fit, a top and a left. Ours have a place for each of these.
    """

    def __init__(self, stream: keyed.U64, max_count: int) -> None:
        """Take the (1,) stream."""
        self.stream, self.takes_count = stream, max_count > 1
        self.box = self.attempt = self.asked = 0

    def draw(self, place: int) -> float:
        """One of our numbers."""
        return float(keyed.uniform(self.stream, place)[0])

    def next(self) -> float:
        """The next number of the rectangle."""
        value = self.draw(3 + (self.box * 10 + self.attempt) * 4 + self.asked)
        self.asked += 1
        return value

    def random(self) -> float:
        """Whether to erase."""
        return self.draw(0)

    def uniform(self, low: float, high: float) -> float:
        """An area or an aspect."""
        if self.asked == 2:  # the attempt before did not fit
            self.asked, self.attempt = 0, self.attempt + 1
        return low + (high - low) * self.next()

    def randint(self, low: int, high: int) -> int:
        """The count, a top or a left."""
        if self.takes_count:
            self.takes_count = False
            return low + int(self.draw(2) * (high - low + 1))
        value = low + int(self.next() * (high - low + 1))
        if self.asked == 4:
            self.asked, self.attempt, self.box = 0, 0, self.box + 1
        return value


@pytest.mark.parametrize("max_count", [1, 3])
@pytest.mark.parametrize("size", [(40, 40), (24, 90)])
def test_against_timm_erasing_boxes(
    size: tuple[int, int], max_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same draws, exactly timm's rectangles are erased and nothing else changes."""
    num, (height, width) = 200, size
    streams = states(num)
    erasure = sample_erasure(streams, 0.5, height, width, "const", max_count)
    eraser = RandomErasing(probability=0.5, mode="const", max_count=max_count, device="cpu")
    images = torch.ones(num, height, width, 3)
    found = apply_erasure(images, erasure)
    assert torch.equal(images, torch.ones_like(images))
    for i in range(num):
        answers = AnswersToTimm(streams[i : i + 1], max_count)
        monkeypatch.setattr(random, "random", answers.random)
        monkeypatch.setattr(random, "uniform", answers.uniform)
        monkeypatch.setattr(random, "randint", answers.randint)
        image = torch.ones(3, height, width)
        eraser._erase(image, 3, height, width, torch.float32)
        assert torch.equal(found[i].permute(2, 0, 1), image), i
    assert 0.35 < (erasure.height[0] > 0).mean() < 0.65
    if max_count > 1:
        counts = np.bincount((erasure.height > 0).sum(0), minlength=4)
        assert counts[2] > 10
        assert counts[3] > 10


def test_against_timm_erasing_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With splits, the same first part of a batch stays clean as in timm."""
    eraser = RandomErasing(probability=1.0, mode="const", num_splits=3, device="cpu")
    monkeypatch.setattr(random, "random", lambda: 0.0)
    images = torch.ones(8, 3, 32, 32)
    clean = (eraser(images).amin((1, 2, 3)) == 1).numpy()
    erasure = sample_erasure(states(8), 1.0, 32, 32, num_splits=3)
    assert np.array_equal(erasure.height[0] == 0, clean)
    assert clean.tolist() == [True, True, *[False] * 6]


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erased_values(mode: EraseMode) -> None:
    """Normal noise a pixel, one normal colour a rectangle, or zeros; outside is the image."""
    num = 400
    images = torch.full((num, 40, 48, 3), 7.0)
    erasure = sample_erasure(states(num), 1.0, 40, 48, mode, max_count=2)
    found = apply_erasure(images, erasure)
    inside = np.zeros((num, 40, 48), dtype=bool)
    colors = []
    for i in range(num):
        for box in range(2):
            top, left = erasure.top[box, i], erasure.left[box, i]
            rows = slice(top, top + erasure.height[box, i])
            columns = slice(left, left + erasure.width[box, i])
            inside[i, rows, columns] = True
            last = box == 1 or erasure.height[1, i] == 0
            if mode == "rand" and last and erasure.height[box, i] > 0:
                patch = found[i, rows, columns].reshape(-1, 3)
                assert torch.equal(patch, patch[:1].expand_as(patch))
                colors.append(patch[0].numpy())
    assert (found[torch.from_numpy(~inside)] == 7).all()
    values = found[torch.from_numpy(inside)]
    if mode == "const":
        assert (values == 0).all()
    elif mode == "rand":
        assert stats.kstest(np.concatenate(colors), "norm").pvalue > 0.001
    else:
        sample = values.numpy().reshape(-1)[:50_000]
        assert stats.kstest(sample, "norm").pvalue > 0.001
        assert np.abs(np.corrcoef(values.numpy()[:50_000].T) - np.eye(3)).max() < 0.02


def test_noise_is_normal_and_keyed() -> None:
    """A hundred thousand numbers have the quantiles of N(0, 1); another seed gives others."""
    place = torch.arange(100_000)
    one, other = (keyed_normal(torch.full_like(place, seed), place) for seed in (1, 2))
    for channel in range(3):
        assert stats.kstest(one[:, channel].numpy(), "norm").pvalue > 0.001
    both = torch.cat((one, other), 1).T
    assert (torch.corrcoef(both) - torch.eye(6)).abs().max() < 0.015
    assert abs(float(np.corrcoef(one[1:, 0], one[:-1, 0])[0, 1])) < 0.015
    again = keyed_normal(torch.tensor([2, 2]), torch.tensor([0, 77]))
    assert torch.equal(again, other[[0, 77]])


class NumpysGlobalDraws:
    """numpy's global generator under the names of `np.random.Generator`."""

    def random(self, size: int | None = None) -> Any:
        """As Generator.random."""
        return np.random.rand() if size is None else np.random.rand(size)

    def beta(self, a: float, b: float, size: int | None = None) -> Any:
        """As Generator.beta."""
        return np.random.beta(a, b, size=size)

    def integers(self, low: int, high: int) -> int:
        """As Generator.integers."""
        return np.random.randint(low, high)


GLOBAL = cast("np.random.Generator", NumpysGlobalDraws())
RULES = {
    "both": {},
    "mixup": {"cutmix_alpha": 0.0},
    "cutmix": {"mixup_alpha": 0.0},
    "minmax": {"cutmix_minmax": (0.2, 0.8)},
    "minmax alone": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "cutmix_minmax": (0.3, 0.9)},
    "sometimes": {"mix_prob": 0.5, "switch_prob": 0.8},
}


def timm_arguments(rules: AugmentConfig) -> dict[str, Any]:
    """The same for timm's Mixup."""
    return {
        "mixup_alpha": rules.mixup_alpha,
        "cutmix_alpha": rules.cutmix_alpha,
        "cutmix_minmax": rules.cutmix_minmax,
        "prob": rules.mix_prob,
        "switch_prob": rules.switch_prob,
        "mode": rules.mix_mode,
        "label_smoothing": 0.1,
        "num_classes": NUM_CLASSES,
    }


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("which", RULES)
def test_against_timm_mixup(which: str, mode: MixMode) -> None:
    """Given timm's draws: its boxes, its weights, its images, targets and losses."""
    rules = AugmentConfig(**RULES[which], mix_mode=mode)
    mixup = Mixup(**timm_arguments(rules))
    # Whole numbers that differ everywhere show a box that is off by one pixel.
    images = torch.randperm(6 * 31 * 44 * 3).float().view(6, 31, 44, 3) / 1000
    labels = torch.tensor([0, 3, 3, 7, 10, 1])
    logits = torch.randn(6, NUM_CLASSES)
    for seed in range(12):
        np.random.seed(seed)
        expected, expected_targets = mixup(images.permute(0, 3, 1, 2).clone(), labels)
        np.random.seed(seed)
        mix = sample_mix(rules, GLOBAL, 6, 31, 44)
        after = np.random.get_state()[2]
        assert isinstance(after, int)
        found = images if mix is None else apply_mix(images, mix)
        assert torch.allclose(found.permute(0, 3, 1, 2), expected, atol=1e-5, rtol=1e-6), seed
        if mix is not None and mix.is_cutmix.all():
            assert torch.equal(found.permute(0, 3, 1, 2), expected)
        targets = mix_targets(labels, mix)
        dense = dense_targets(targets, NUM_CLASSES, 0.1)
        assert torch.allclose(dense, expected_targets, atol=1e-6, rtol=0), seed
        expected_loss = SoftTargetCrossEntropy()(logits, expected_targets)
        found_loss = mixed_cross_entropy(logits, targets, 0.1)
        assert found_loss.item() == pytest.approx(expected_loss.item(), abs=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_against_timm_prefetcher_mixing(mode: MixMode) -> None:
    """The order of timm's prefetcher: uint8 images mixed and rounded as its collate does."""
    rules = AugmentConfig(mix_mode=mode, mix_prob=0.8)
    collate = FastCollateMixup(**timm_arguments(rules))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 3, 31, 44), dtype=np.uint8)
    labels = [0, 3, 3, 7, 10, 1]
    for seed in range(12):
        np.random.seed(seed)
        expected, expected_targets = collate(
            [(image.copy(), label) for image, label in zip(images, labels, strict=True)]
        )
        np.random.seed(seed)
        mix = sample_mix(rules, GLOBAL, 6, 31, 44)
        nhwc = torch.from_numpy(images.transpose(0, 2, 3, 1).copy()).float()
        found = nhwc if mix is None else apply_mix(nhwc, mix).round()
        assert torch.equal(found.permute(0, 3, 1, 2).byte(), expected), seed
        dense = dense_targets(mix_targets(torch.tensor(labels), mix), NUM_CLASSES, 0.1)
        assert torch.allclose(dense, expected_targets, atol=1e-6, rtol=0)


def test_dense_targets_of_equal_labels() -> None:
    """Where both labels are the same, the row sums to 1 and equals timm's."""
    labels = torch.tensor([4, 4, 4, 4])
    weight = torch.tensor([0.3, 0.3, 0.3, 0.3])
    found = dense_targets(MixedTargets(labels, labels.flip(0), weight), NUM_CLASSES, 0.1)
    assert torch.allclose(found, mixup_target(labels, NUM_CLASSES, 0.3, 0.1), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(4))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_decisions_have_timms_distribution(mode: MixMode) -> None:
    """Half of the decisions are CutMix; weights are Beta(0.8, 0.8) for Mixup, one for pairs."""
    rules, num = AugmentConfig(mix_mode=mode), 4
    mixes = [
        sample_mix(rules, keyed.step_generator(0, Purpose.MIX, 0, step), num, 64, 64)
        for step in range(6000)
    ]
    first = np.array([(m.weight[0], m.is_cutmix[0]) for m in mixes if m is not None])
    cuts: NDArray[np.bool_] = first[:, 1] > 0
    assert stats.binomtest(int(cuts.sum()), len(first)).pvalue > 0.001
    assert stats.kstest(first[~cuts, 0], stats.beta(0.8, 0.8).cdf).pvalue > 0.001
    for mix in mixes[:50]:
        assert mix is not None
        if mode != "elem":
            assert np.array_equal(mix.weight, mix.weight[::-1])
            assert np.array_equal(mix.box, mix.box[::-1])
        else:
            assert len(np.unique(mix.weight)) > 1


def test_nothing_to_mix() -> None:
    """Without alphas, or with probability 0, nothing is mixed; too narrow limits are refused."""
    generator = keyed.step_generator(0, Purpose.MIX, 0, 0)
    assert sample_mix(AugmentConfig(mixup_alpha=0.0, cutmix_alpha=0.0), generator, 4, 8, 8) is None
    assert sample_mix(AugmentConfig(mix_prob=0.0), generator, 4, 8, 8) is None
    elem = sample_mix(AugmentConfig(mix_prob=0.0, mix_mode="elem"), generator, 4, 8, 8)
    assert elem is not None
    images = torch.randn(4, 8, 8, 3)
    assert torch.equal(apply_mix(images, elem), images)
    with pytest.raises(UserError, match=r"leave a side to choose at 8 x 8 pixels. Found: 0.5 0.6"):
        sample_mix(AugmentConfig(mixup_alpha=0.0, cutmix_minmax=(0.5, 0.6)), generator, 4, 8, 8)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("num", [1, 5])
def test_odd_batches_mix(num: int, mode: MixMode) -> None:
    """In an odd batch the middle image meets itself; the others are mixed as ever."""
    images = torch.randn(num, 12, 10, 3)
    for step in range(20):
        generator = keyed.step_generator(0, Purpose.MIX, 0, step)
        mix = sample_mix(AugmentConfig(mix_mode=mode), generator, num, 12, 10)
        assert mix is not None
        found = apply_mix(images, mix)
        assert torch.allclose(found[num // 2], images[num // 2], atol=1e-6)
        for i in range(num):
            own = images[i] * mix.weight[i] + images[num - 1 - i] * (1 - mix.weight[i])
            if mix.is_cutmix[i]:
                top, bottom, left, right = mix.box[i]
                own = images[i].clone()
                own[top:bottom, left:right] = images[num - 1 - i, top:bottom, left:right]
                left_over = 1 - (bottom - top) * (right - left) / 120
                assert mix.weight[i] == pytest.approx(left_over, abs=1e-6)
            assert torch.allclose(found[i], own.float(), atol=1e-6)
