"""Every operation equals timm's on PIL in every byte, by batched torch and by numba."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures_to_move import SIZES, pictures
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP
from torchvision.transforms import InterpolationMode, TrivialAugmentWide
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from fastdeit.augment import Operations, apply_operations, operate
from fastdeit.augment.operate import Implementation
from fastdeit.policies import NAMED_OPS, Op
from fastdeit.policies.operations import NUM_WIDE_BINS, Draws
from fastdeit.policies.policy import FILL

IMPLEMENTATIONS: list[Implementation] = ["torch", "numba"]
FACTORS = (0.0, 0.1, 0.19, 0.5, 1.0, 1.3, 1.81, 1.9, 3.3)
SLOPES = (0.0, 0.3, -0.3, 0.15, 0.27, -0.2713, 0.5, 0.9)
# Of the side: whole and half pixels but for the last bit, part of one, all of it and more.
SHARES = (0.0, 0.45, -0.405, 0.225, 0.29, 0.57, -0.28, 1e-17, 0.0013, -1.0, 4.0)

CASES: dict[Op, tuple[str, tuple[float, ...]]] = {
    Op.AUTO_CONTRAST: ("AutoContrast", (0.0,)),
    Op.EQUALIZE: ("Equalize", (0.0,)),
    Op.INVERT: ("Invert", (0.0,)),
    Op.POSTERIZE: ("Posterize", (-8, 0, 1, 2, 4, 7, 8, 12)),
    Op.SOLARIZE: ("Solarize", (0, 1, 26, 127.5, 128, 255, 256)),
    Op.SOLARIZE_ADD: ("SolarizeAdd", (0, 1, 99, 110, 128)),
    Op.BRIGHTNESS: ("Brightness", FACTORS),
    Op.CONTRAST: ("Contrast", FACTORS),
    Op.COLOR: ("Color", FACTORS),
    Op.SHARPNESS: ("Sharpness", FACTORS),
    Op.GAUSSIAN_BLUR: ("GaussianBlur", (0.0, 0.1, 0.3, 0.7, 1.0, 1.4, 1.99, 2.0, 3.3, 7.0)),
    Op.ROTATE: ("Rotate", (0.0, -27.0, 27.3, 30.0, 90.0, 180.0, -90.0, 135.0, 1e-9, 3.0)),
    Op.SHEAR_X: ("ShearX", SLOPES),
    Op.SHEAR_Y: ("ShearY", SLOPES),
    Op.TRANSLATE_X: ("TranslateXRel", SHARES),
    Op.TRANSLATE_Y: ("TranslateYRel", SHARES),
}


def same_for_all(num: int, op: Op, argument: float, is_bilinear: bool = False) -> Operations:
    """One operation for a whole batch."""
    shape = (1, num)
    return Operations(
        np.full(shape, int(op)), np.full(shape, argument), np.full(shape, is_bilinear), FILL
    )


def by_timm(
    name: str, args: tuple[float, ...], given: dict[str, Any]
) -> Callable[[Image.Image], Image.Image]:
    """One of timm's functions with its arguments."""
    function: Any = NAME_TO_OP[name]
    return lambda image: cast("Image.Image", function(image, *args, **given))


def assert_equal(
    images: NDArray[np.uint8],
    operations: Operations,
    expected: Callable[[Image.Image], Image.Image],
    implementation: Implementation,
    what: str,
) -> None:
    """Compare with a function of PIL images, byte by byte."""
    found = apply_operations(torch.from_numpy(images), operations, implementation).numpy()
    wanted = np.stack([np.asarray(expected(Image.fromarray(image))) for image in images])
    off = np.abs(found.astype(int) - wanted)
    assert off.max() == 0, f"{what}: {(off > 0).mean():.2e} of bytes differ, by up to {off.max()}"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "op",
    [
        pytest.param(op, id=op.name, marks=[pytest.mark.pillow_12] * (op == Op.POSTERIZE))
        for op in CASES
    ],
)
def test_against_timm_operation(op: Op, implementation: Implementation) -> None:
    """Equal in every byte, over arguments, images, sizes and both ways to resample."""
    name, arguments = CASES[op]
    for height, width in SIZES:
        images = pictures(height, width)
        for argument in arguments:
            for is_bilinear in (False, True) if op >= Op.ROTATE else (False,):
                given: dict[str, Any] = {}
                ours = argument
                if op >= Op.ROTATE:
                    kind = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
                    given = {"fillcolor": FILL, "resample": kind}
                if op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
                    ours = argument * (width if op == Op.TRANSLATE_X else height)
                args = () if op <= Op.INVERT else (argument,)
                if op in (Op.POSTERIZE, Op.SOLARIZE_ADD):
                    args = (int(argument),)
                assert_equal(
                    images,
                    same_for_all(len(images), op, ours, is_bilinear),
                    by_timm(name, args, given),
                    implementation,
                    f"{name} {argument} at {width} x {height}, bilinear {is_bilinear}",
                )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_against_torchvision_hue(implementation: Implementation) -> None:
    """Equal in every byte, over all colours with two of three channels in steps of 3."""
    steps = np.arange(0, 256, 3, dtype=np.uint8)
    grid = np.stack(np.meshgrid(np.arange(256, dtype=np.uint8), steps, steps), -1)
    images = grid.reshape(1, 256, -1, 3)
    for factor in (-0.5, -0.31, 0.0, 0.1, 0.5):
        operations = same_for_all(1, Op.HUE, np.trunc(factor * 255))
        assert_equal(
            images,
            operations,
            functools.partial(F.adjust_hue, hue_factor=factor),
            implementation,
            f"hue {factor}",
        )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", [n for n in NAMED_OPS if not n.startswith("Wide")])
def test_against_timm_levels(name: str, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level means the same argument to the last bit, for levels up to 30 and both signs."""
    levels = np.concatenate([np.linspace(0, 10, 201), np.arange(11, 31)])
    uniform = np.random.default_rng(0).random(len(levels))
    named, level_fn = NAMED_OPS[name], LEVEL_TO_ARG[name]
    found = np.broadcast_to(
        named.argument(Draws(levels, np.full(len(levels), sign), uniform, 90, 70)), levels.shape
    )
    monkeypatch.setattr(random, "random", lambda: 0.25 if sign > 0 else 0.75)
    for i, level in enumerate(levels):
        expected = 0.0 if level_fn is None else level_fn(level, {})[0]
        if name == "TranslateXRel":
            expected *= 70
        elif name == "TranslateYRel":
            expected *= 90
        elif name == "Desaturate":
            expected = min(1.0, max(0.0, 1.0 - expected))
        elif name == "GaussianBlurRand":
            expected = 0.1 + (2.0 * expected - 0.1) * uniform[i]  # random.uniform(0.1, 2 x ...)
        assert found[i] == expected, level
    other = named.argument(Draws(levels, np.full(len(levels), -sign), uniform, 90, 70))
    assert named.has_sign == bool(np.any(found != other))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", [n for n in NAMED_OPS if n.startswith("Wide")])
def test_against_torchvision_trivial_augment(name: str, implementation: Implementation) -> None:
    """TrivialAugment's operations equal torchvision's on PIL, each of 31 magnitudes, both signs."""
    magnitudes, signed = TrivialAugmentWide()._augmentation_space(NUM_WIDE_BINS)[name[4:]]
    named = NAMED_OPS[name]
    assert named.has_sign == signed
    images = pictures(60, 80)[:3]
    num = len(images)
    for sign in (1.0, -1.0) if signed else (1.0,):
        for number in range(NUM_WIDE_BINS if magnitudes.ndim else 1):
            magnitude = float(magnitudes[number]) if magnitudes.ndim else 0.0
            draws = Draws(np.full(num, float(number)), np.full(num, sign), np.zeros(num), 60, 80)
            argument = np.broadcast_to(named.argument(draws), (1, num)).astype(np.float64)
            shape = (1, num)
            assert_equal(
                images,
                Operations(
                    np.full(shape, int(named.op)), argument, np.zeros(shape, bool), (0, 0, 0)
                ),
                functools.partial(
                    _apply_op,
                    op_name=name[4:],
                    magnitude=magnitude * sign,
                    interpolation=InterpolationMode.BICUBIC,
                    fill=None,
                ),
                implementation,
                f"{name} {magnitude * sign}",
            )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_strides_and_batch_sizes(implementation: Implementation) -> None:
    """Images of any strides give what contiguous ones give; nothing given is changed."""
    images = torch.from_numpy(pictures(48, 64))
    for num, wide in ((5, images), (1, images[2:3]), (3, images[::2]), (5, images.flip(2))):
        strided = wide.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        assert not strided.is_contiguous()
        before = strided.clone()
        ops = [Op.ROTATE, Op.SHARPNESS, Op.CONTRAST, Op.SHEAR_X, Op.GAUSSIAN_BLUR][:num]
        operations = Operations(
            np.array([ops]), np.full((1, num), 0.7), np.zeros((1, num), dtype=bool), FILL
        )
        found = apply_operations(strided, operations, implementation)
        assert torch.equal(found, apply_operations(wide.contiguous(), operations, implementation))
        assert found.is_contiguous()
        assert torch.equal(strided, before)


@pytest.mark.parametrize("work", [1, 4 * 128 * 40 * 52 * 3])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_operations_in_one_batch(
    implementation: Implementation, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one batch get different operations, in parts that fit little memory."""
    monkeypatch.setattr(operate, "LEAST_WORK_BYTES", work)
    monkeypatch.setattr(operate, "WORK_PART", 1e-6)
    generator = np.random.default_rng(3)
    images = pictures(40, 52)[generator.integers(0, 2, 90)]
    ops = generator.integers(0, len(Op), (3, 90))
    arguments = generator.uniform(0.1, 2.0, ops.shape)
    operations = Operations(ops, arguments, generator.random(ops.shape) < 0.5, FILL)
    found = apply_operations(torch.from_numpy(images), operations, implementation)
    for i in range(90):
        alone = torch.from_numpy(images[i : i + 1])
        for slot in range(3):
            one = slice(slot, slot + 1), slice(i, i + 1)
            single = Operations(ops[one], arguments[one], operations.is_bilinear[one], FILL)
            alone = apply_operations(alone, single, "torch")
        assert torch.equal(alone[0], found[i]), [Op(op).name for op in ops[:, i]]


def test_what_does_not_fit_is_refused() -> None:
    """Wrong dtypes, shapes and numbers of images get one clear error."""
    operations = same_for_all(2, Op.INVERT, 0)
    with pytest.raises(ValueError, match=r"must be \(B, H, W, 3\) uint8. Found: \(2, 4, 4, 3\) t"):
        apply_operations(torch.zeros(2, 4, 4, 3), operations)
    with pytest.raises(ValueError, match=r"Found: \(2, 3, 4, 4\) torch.uint8"):
        apply_operations(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), operations)
    with pytest.raises(ValueError, match=r"must be drawn for 3 images. Found: 2"):
        apply_operations(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), operations)
    with pytest.raises(ValueError, match=r"numba works on a CPU. Found: meta. Pass torch."):
        apply_operations(
            torch.zeros(2, 4, 4, 3, dtype=torch.uint8, device="meta"), operations, "numba"
        )
    with pytest.raises(ValueError, match=r"must be \(slots, images\) alike"):
        Operations(np.zeros((1, 2), np.int64), np.zeros((1, 3)), np.zeros((1, 2), bool), FILL)
