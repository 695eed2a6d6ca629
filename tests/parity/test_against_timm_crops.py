"""Crops against timm's and torchvision's arithmetic, given the same draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from fastdeit import keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines.engines.pil_engine import resample_with_pil
from fastdeit.pipelines.engines.resample import resample_cut
from fastdeit.pipelines.plan.crops import CUT, crop_rule, fill_cut
from fastdeit.pipelines.plan.order import Plan

SIZES = [(500, 375), (375, 500), (20, 17), (4000, 3000), (1000, 60), (60, 1000), (224, 224)]


class Draws:
    """Hands timm's calls of `random` the numbers of one keyed stream."""

    def __init__(self, state: np.uint64) -> None:
        self.state = np.array([state], dtype=np.uint64)
        self.attempt = self.place = 0

    def next(self) -> float:
        """The next number of the attempt."""
        value = keyed.uniform(self.state, 4 * self.attempt + self.place)[0]
        self.place += 1
        return float(value)

    def uniform(self, low: float, high: float) -> float:
        """As random.uniform; two of them make an attempt unless it succeeds."""
        if self.place == 2:
            self.attempt, self.place = self.attempt + 1, 0
        return low + (high - low) * self.next()

    def randint(self, low: int, high: int) -> int:
        """As random.randint, both ends included."""
        return low + int(self.next() * (high - low + 1))


def make_plan(**changes: Any) -> Plan:
    """A training plan at 64 pixels."""
    values: dict[str, Any] = {
        "keys": np.arange(10, dtype=np.uint64),
        "batch_size": 2,
        "image_size": 64,
        "is_training": True,
        **changes,
    }
    return Plan(**values)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.7), (0.9, 2.0))]
)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_against_timm_random_resized_crop(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The boxes are those of timm's get_params, the fallback of extreme shapes included."""
    rule = crop_rule(make_plan(crop_scale=scale, crop_ratio=ratio))
    image = Image.new("RGB", (width, height))
    keys = np.arange(300, dtype=np.uint64)
    states = keyed.sample_states(1, Purpose.CROP, 0, keys, np.zeros(300, dtype=np.int64))
    for state in states:
        draws = Draws(state)
        monkeypatch.setattr(random, "uniform", draws.uniform)
        monkeypatch.setattr(random, "randint", draws.randint)
        expected = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
        cut = np.zeros(len(CUT), dtype=np.int32)
        fill_cut(rule, state, height, width, cut)
        assert tuple(cut[:4].tolist()) == tuple(expected)
        assert cut[4:].tolist() == [64, 64, 0, 0]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("size", "ratio"), [(224, 0.875), (384, 0.875), (384, 1.0), (64, 0.9)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_against_torchvision_eval_transform(
    width: int, height: int, size: int, ratio: float, interpolation: str
) -> None:
    """Resize of the shorter side and centre crop give torchvision's pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3))
    image = Image.fromarray(pixels.astype(np.uint8)).resize((width, height))
    shorter = int(size / ratio)
    resize: Any = transforms.Resize(
        shorter, interpolation=transforms.InterpolationMode(interpolation)
    )
    expected = np.asarray(transforms.CenterCrop(size)(resize(image)))
    cut = np.zeros(len(CUT), dtype=np.int32)
    rule = crop_rule(
        make_plan(
            image_size=size,
            eval_crop_ratio=ratio,
            is_training=False,
            interpolation=interpolation,
        )
    )
    fill_cut(rule, np.uint64(0), height, width, cut)
    assert np.array_equal(resample_with_pil(image, cut, size, rule.radius), expected)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (40, 33), (24, 30), (200, 90)])
def test_against_torchvision_padded_crop(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded crops give the pixels of torchvision's RandomCrop with padding, given its draws."""
    pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3)).astype(np.uint8)
    transform = transforms.RandomCrop(32, padding=4)
    rule = crop_rule(make_plan(image_size=32, crop="padded"))
    keys = np.arange(200, dtype=np.uint64)
    seen = set()
    for state in keyed.sample_states(1, Purpose.CROP, 0, keys, np.zeros(200, dtype=np.int64)):
        draws = iter(keyed.uniform(np.array([state]), index)[0] for index in range(2))

        def randint(low: int, high: int, size: Any) -> torch.Tensor:
            return torch.full(size, low + int(next(draws) * (high - low)))  # noqa: B023

        monkeypatch.setattr(torch, "randint", randint)
        expected = np.asarray(transform(Image.fromarray(pixels)))
        cut = np.zeros(len(CUT), dtype=np.int32)
        fill_cut(rule, state, height, width, cut)
        out = np.zeros((32, 32, 3), dtype=np.uint8)
        resample_cut(pixels, rule.radius, cut, out)
        assert np.array_equal(out, expected)
        assert np.array_equal(resample_with_pil(Image.fromarray(pixels), cut, 32), expected)
        seen.add(tuple(cut[:2].tolist()))
    offsets = (width - 32 + 9) * (height - 32 + 9)
    assert len(seen) > 0.7 * min(offsets, 100)
