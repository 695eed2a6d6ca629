"""Flip, erasing, mixing, losses, groups and schedule against timm's own functions."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from torchvision import transforms

from fastdeit import keyed
from fastdeit.augment import (
    Augmentation,
    MixedTargets,
    apply_augmentation,
    normalise,
    sample_augmentation,
)
from fastdeit.augment.compose import MEAN, STD
from fastdeit.augment.erase import Erasure, apply_erasure, keyed_normal, sample_erasure
from fastdeit.augment.mix import Mix, apply_mix, cutmix_from_draws, sample_mix
from fastdeit.batch import Batch
from fastdeit.config import AugmentConfig, ModelConfig, OptimConfig
from fastdeit.keyed import Purpose
from fastdeit.losses import hard_distillation_loss, mixed_cross_entropy
from fastdeit.models import make_model
from fastdeit.optim import learning_rate, make_optimizer
from fastdeit.recipes import RECIPES

NUM_CLASSES = 11


def make_batch(size: int = 6, side: int = 32, seed: int = 0) -> Batch:
    """A batch of noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size, side, side, 3)
    return Batch(
        images_nhwc_u8=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        labels=torch.arange(size) % NUM_CLASSES,
        sample_keys=np.arange(100, 100 + size, dtype=np.uint64),
        copies=np.zeros(size, dtype=np.int64),
        epoch=2,
        step=3,
    )


def states(num: int) -> keyed.U64:
    """Keyed streams for erasing."""
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(0, Purpose.ERASE, 0, keys, np.zeros(num, dtype=np.int64))


def test_against_torchvision_normalise() -> None:
    """Normalising equals ToTensor and Normalize, and the memory is channels-last."""
    batch = make_batch()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    expected = torch.stack([transform(image.numpy()) for image in batch.images_nhwc_u8])
    found = normalise(batch.images_nhwc_u8)
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_against_timm_erasing_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same draws, exactly timm's rectangle becomes noise and nothing else changes."""
    num, side = 200, 40
    streams = states(num)
    erasure = sample_erasure(streams, 0.5, side, side)
    eraser = RandomErasing(probability=0.5, mode="const", max_count=1, device="cpu")
    for i in range(num):
        # timm draws 1 for the decision; ours keep draw 1 for the noise and go on at 2.
        order = iter([0, *range(2, 42)])

        def draw(stream: keyed.U64 = streams[i : i + 1], order: object = order) -> float:
            return float(keyed.uniform(stream, next(order))[0])  # type: ignore[call-overload]

        place = 0

        def uniform(low: float, high: float, draw: object = draw) -> float:
            nonlocal place
            # A failed attempt leaves its two places undrawn.
            if place % 4 == 2:
                draw(), draw()  # type: ignore[operator]
                place += 2
            place += 1
            return low + (high - low) * draw()  # type: ignore[operator,no-any-return]

        def randint(low: int, high: int, draw: object = draw) -> int:
            nonlocal place
            place += 1
            return low + int(draw() * (high - low + 1))  # type: ignore[operator]

        monkeypatch.setattr(random, "random", draw)
        monkeypatch.setattr(random, "uniform", uniform)
        monkeypatch.setattr(random, "randint", randint)
        image = torch.ones(3, side, side)
        eraser._erase(image, 3, side, side, torch.float32)
        expected = torch.ones(side, side)
        top, left = int(erasure.top[i]), int(erasure.left[i])
        expected[top : top + erasure.height[i], left : left + erasure.width[i]] = 0
        assert torch.equal(image[0], expected), i
    assert 0.35 < (erasure.height > 0).mean() < 0.65


def test_erasing_changes_only_the_box() -> None:
    """Inside is noise of mean 0 and deviation 1, outside is the image."""
    images = torch.full((2, 3, 64, 64), 7.0).contiguous(memory_format=torch.channels_last)
    one = np.array([10, 0]), np.array([20, 0]), np.array([30, 0]), np.array([40, 0])
    out = apply_erasure(images, Erasure(*one, np.array([5, 6])))
    assert torch.equal(out[1], images[1])
    assert torch.equal(images, torch.full_like(images, 7.0))
    inside = out[0, :, 10:40, 20:60]
    assert abs(inside.mean()) < 0.1
    assert abs(inside.std() - 1) < 0.1
    out[0, :, 10:40, 20:60] = 7.0
    assert torch.equal(out, images)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_noise_is_normal_and_keyed() -> None:
    """A hundred thousand numbers have the quantiles of N(0, 1); another seed gives others."""
    noise = keyed_normal(torch.tensor([[1], [2]]), 100_000)
    quantiles = torch.quantile(noise[0], torch.tensor([0.0228, 0.1587, 0.5, 0.8413, 0.9772]))
    assert torch.allclose(quantiles, torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), atol=0.03)
    assert abs(torch.corrcoef(noise)[0, 1]) < 0.02
    assert torch.equal(keyed_normal(torch.tensor([[2]]), 100_000)[0], noise[1])


@pytest.mark.parametrize("use_cutmix", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_against_timm_mixup(use_cutmix: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given timm's draws, images, weight and dense targets are timm's."""
    images = torch.randn(6, 3, 30, 44)
    labels = torch.tensor([0, 3, 3, 7, 10, 1])
    mixup = Mixup(
        mixup_alpha=0.0 if use_cutmix else 0.8,
        cutmix_alpha=1.0 if use_cutmix else 0.0,
        label_smoothing=0.1,
        num_classes=NUM_CLASSES,
    )
    np.random.seed(seed)
    expected, expected_targets = mixup(images.clone(), labels)
    np.random.seed(seed)
    np.random.rand()
    alpha = 1.0 if use_cutmix else 0.8
    weight = np.random.beta(alpha, alpha)
    if use_cutmix:
        center_y, center_x = np.random.randint(0, 30), np.random.randint(0, 44)
        mix = cutmix_from_draws(weight, center_y, center_x, 30, 44)
    else:
        mix = Mix(weight, None)
    found, found_weight = apply_mix(images, mix)
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    targets = mixup_target(labels, NUM_CLASSES, found_weight, 0.1)
    assert torch.allclose(targets, expected_targets, atol=1e-6, rtol=0)

    logits = torch.randn(6, NUM_CLASSES)
    mixed = MixedTargets(labels, labels.flip(0), found_weight)
    expected_loss = SoftTargetCrossEntropy()(logits, expected_targets)
    assert mixed_cross_entropy(logits, mixed, 0.1).item() == pytest.approx(
        expected_loss.item(), abs=1e-6
    )


def test_mixing_decisions_have_timms_distribution() -> None:
    """Half of the steps are CutMix, lambda is Beta(0.8, 0.8) for Mixup."""
    mixes = [
        sample_mix(keyed.step_generator(0, Purpose.MIX, 0, step), 0.8, 1.0, 0.5, 64, 64)
        for step in range(4000)
    ]
    weights = np.array([mix.weight for mix in mixes if mix is not None and mix.box is None])
    assert abs(len(weights) / 4000 - 0.5) < 0.04  # 5 sigma
    assert abs(weights.mean() - 0.5) < 0.035
    assert abs(weights.var() - 1 / (4 * 2.6)) < 0.01  # Beta(a, a): 1 / (4 (2a + 1))
    assert sample_mix(keyed.step_generator(0, Purpose.MIX, 0, 0), 0, 0, 0.5, 64, 64) is None


def test_augmentation_of_a_sample_does_not_depend_on_its_batch() -> None:
    """Without mixing, an image alone is augmented as among others, and its copy differently."""
    config = AugmentConfig(mixup_alpha=0, cutmix_alpha=0, erase_prob=1.0)
    batch = make_batch()
    together, _ = apply_augmentation(batch, sample_augmentation(config, batch, 0))
    for i in range(6):
        alone = Batch(
            batch.images_nhwc_u8[i : i + 1],
            batch.labels[i : i + 1],
            batch.sample_keys[i : i + 1],
            batch.copies[i : i + 1],
            batch.epoch,
            99,
        )
        found, targets = apply_augmentation(alone, sample_augmentation(config, alone, 0))
        assert torch.equal(found[0], together[i])
        assert targets.weight == 1
    other = Batch(
        batch.images_nhwc_u8, batch.labels, batch.sample_keys, batch.copies + 1, batch.epoch, 3
    )
    copied, _ = apply_augmentation(other, sample_augmentation(config, other, 0))
    assert not torch.equal(copied, together)


def test_order_is_flip_normalise_erase_mix() -> None:
    """The whole is its parts in DeiT's order, by timm's own arithmetic for each."""
    batch = make_batch(5)  # odd: the middle image meets itself
    flip = np.array([True, False, True, False, False])
    boxes = (np.array([2, 0, 0, 0, 4]),) * 2 + (np.array([9, 0, 0, 0, 5]),) * 2
    erasure = Erasure(*boxes, np.arange(5))
    found, targets = apply_augmentation(batch, Augmentation(flip, erasure, Mix(0.3, None)))
    images = normalise(batch.images_nhwc_u8).clone()
    for i in np.flatnonzero(flip):
        images[i] = images[i].flip(2)
    images = apply_erasure(images, erasure)
    assert torch.allclose(found, images * 0.3 + images.flip(0) * 0.7, atol=1e-6)
    assert torch.equal(targets.partner_labels, batch.labels.flip(0))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_hard_distillation_is_equation_3() -> None:
    """Half the label's cross-entropy, half that with the teacher's decision, in float64 numpy."""
    class_logits, dist_logits, teacher_logits = torch.randn(3, 4, NUM_CLASSES)
    labels = torch.tensor([1, 2, 3, 4])
    class_loss = F.cross_entropy(class_logits, labels)
    found = hard_distillation_loss(class_loss, dist_logits, teacher_logits)

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
        values = logits.double().numpy()
        log_sum = np.log(np.exp(values).sum(1))
        return float((log_sum - values[np.arange(4), targets.numpy()]).mean())

    expected = 0.5 * cross_entropy(class_logits, labels)
    expected += 0.5 * cross_entropy(dist_logits, teacher_logits.argmax(1))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_only_matrices_are_decayed() -> None:
    """Vectors, biases, both tokens and the position embedding have no weight decay."""
    where = Path("x")
    config = RECIPES["demo"](where, where, where, where)
    model = make_model(config.model, NUM_CLASSES, 64)
    optimizer = make_optimizer(model, OptimConfig(), 512)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith(".weight") and parameter.ndim >= 2
        assert decay[id(parameter)] == (0.05 if is_matrix else 0.0), name
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_against_timm_cosine_schedule() -> None:
    """Learning rates equal timm's CosineLRScheduler stepped by updates, warm-up included."""
    config = OptimConfig(epochs=20, warmup_epochs=5)
    steps_per_epoch = 7
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr(1024))
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=20 * steps_per_epoch,
        lr_min=1e-5,
        warmup_t=5 * steps_per_epoch,
        warmup_lr_init=1e-6,
        t_in_epochs=False,
    )
    for step in range(20 * steps_per_epoch):
        schedule.step_update(step)
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(config, 1024, step, steps_per_epoch) == pytest.approx(expected), step


def test_drop_path_reaches_the_model() -> None:
    """The option changes what timm builds: the deepest block drops at the rate given."""
    config = ModelConfig(model="deit_tiny_patch16_224", depth=3, drop_path=0.1)
    model = make_model(config, 5, 32)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.05, 0.1])
