"""Crops against timm's and torchvision's arithmetic, given the same draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from fastdeit import keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines.crops import CUT, center_cut, random_resized_cut
from fastdeit.pipelines.pil_engine import resample_with_pil

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


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_against_timm_random_resized_crop(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boxes are those of timm's get_params, the fallback of extreme shapes included."""
    image = Image.new("RGB", (width, height))
    keys = np.arange(300, dtype=np.uint64)
    states = keyed.sample_states(1, Purpose.CROP, 0, keys, np.zeros(300, dtype=np.int64))
    for state in states:
        draws = Draws(state)
        monkeypatch.setattr(random, "uniform", draws.uniform)
        monkeypatch.setattr(random, "randint", draws.randint)
        expected = RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        cut = np.zeros(len(CUT), dtype=np.int32)
        random_resized_cut(state, height, width, 64, cut)
        assert tuple(cut[:4].tolist()) == tuple(expected)
        assert cut[4:].tolist() == [64, 64, 0, 0]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("size", "ratio"), [(224, 0.875), (384, 0.875), (384, 1.0), (64, 0.9)])
def test_against_torchvision_eval_transform(
    width: int, height: int, size: int, ratio: float
) -> None:
    """Resize of the shorter side and centre crop give torchvision's pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3))
    image = Image.fromarray(pixels.astype(np.uint8)).resize((width, height))
    shorter = int(size / ratio)
    resize: Any = transforms.Resize(shorter, interpolation=transforms.InterpolationMode.BICUBIC)
    expected = np.asarray(transforms.CenterCrop(size)(resize(image)))
    cut = np.zeros(len(CUT), dtype=np.int32)
    center_cut(height, width, size, shorter, cut)
    assert np.array_equal(resample_with_pil(image, cut, size), expected)
