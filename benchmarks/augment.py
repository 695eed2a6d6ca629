"""`fastdeit bench augment`: operations, policies and the whole stage beside timm's on PIL.

On one core, so that a rate is that of one worker; on a GPU the whole stage on the device.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor

from fastdeit import keyed
from fastdeit.augment import (
    Operations,
    apply_augmentation,
    apply_operations,
    sample_augmentation,
    sample_operations,
)
from fastdeit.augment.reference import apply_with_pil, timm_policy
from fastdeit.batch import Batch
from fastdeit.benchmarks.harness import Case, Effort, measure
from fastdeit.benchmarks.rows import Row, with_bound
from fastdeit.config.augment import AugmentConfig
from fastdeit.keyed import Purpose
from fastdeit.policies import NAMED_OPS, one_operation, parse_policy
from fastdeit.policies.policy import FILL

PAPER = "rand-m9-mstd0.5-inc1"
POLICIES = (PAPER, "original", "3a")
LEVEL = 9.0
OPERATIONS = (
    "AutoContrast Equalize Invert PosterizeIncreasing SolarizeIncreasing SolarizeAdd "
    "ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing Rotate ShearX "
    "ShearY TranslateXRel TranslateYRel GaussianBlur"
).split()
NUM_CLASSES = 1000


def bench_augment(
    num_images: int,
    image_size: int,
    device: torch.device,
    effort: Effort,
) -> list[Row]:
    """Measure the augmentation on a device beside timm's on one core of the CPU.

    Args:
        num_images: images of a batch.
        image_size: their side in pixels.
        device: where ours runs.
        effort: of each pair.

    Returns:
        For each operation (at level 9) and policy a row of timm's on PIL and one of ours; then the
        whole stage in both ways. The bound of the stage is writing its float32 result.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = photographs(num_images, image_size, device)
        rows = []
        for name in OPERATIONS:
            rows += operation_rows(name, batch, effort)
        for config in POLICIES:
            rows += policy_rows(config, batch, effort)
        return rows + stage_rows(batch, effort)
    finally:
        torch.set_num_threads(threads)


def photographs(num: int, size: int, device: torch.device) -> Batch:
    """A batch of smooth random pictures with some noise, as varied in value as photographs."""
    generator = np.random.default_rng(0)
    images = np.empty((num, size, size, 3), dtype=np.uint8)
    for image in images:
        coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
        image[:] = np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255)
    labels = torch.from_numpy(generator.integers(0, NUM_CLASSES, num))
    keys = np.arange(num, dtype=np.uint64)
    batch = Batch(torch.from_numpy(images), labels, keys, np.zeros(num, dtype=np.int64), 0, 0)
    return batch.to(device)


def pil_images(batch: Batch) -> list[Image.Image]:
    """The same pictures for PIL."""
    return [Image.fromarray(image) for image in batch.images_nhwc_u8.cpu().numpy()]


def apply_all(batch: Batch, operations: Operations) -> Tensor:
    """Ours; returns when the device is done."""
    result = apply_operations(batch.images_nhwc_u8, operations)
    wait(result.device)
    return result


def wait(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pair(
    baseline: str,
    theirs: Callable[[], object],
    name: str,
    ours: Callable[[], object],
    num: int,
    effort: Effort,
    note: str | None = None,
) -> list[Row]:
    """Two cases that take turns."""

    def counted(function: Callable[[], object]) -> Callable[[], int]:
        def run() -> int:
            function()
            return num

        return run

    cases = [Case(name=baseline, run=counted(theirs)), Case(name=name, run=counted(ours))]
    rows = measure("augment", "img/s", cases, effort, [baseline])
    return [rows[0], replace(rows[1], note=note)]


def operation_rows(name: str, batch: Batch, effort: Effort) -> list[Row]:
    """One operation at level 9, with a sign for each image."""
    num, height, width, _ = batch.images_nhwc_u8.shape
    drawn = _one_operation(name, num, height, width)
    images, op = pil_images(batch), NAMED_OPS[name].op

    def theirs() -> None:
        for image, argument in zip(images, drawn.argument[0].tolist(), strict=True):
            apply_with_pil(image, op, argument, FILL)

    return pair(
        f"timm on PIL: {name}",
        theirs,
        f"fastdeit: {name}",
        lambda: apply_all(batch, drawn),
        num,
        effort,
    )


def _one_operation(name: str, num: int, height: int, width: int) -> Operations:
    states = _states(num)
    return sample_operations(one_operation(name, LEVEL), states, height, width)


def _states(num: int) -> keyed.U64:
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(0, Purpose.POLICY, 0, keys, np.zeros(num, dtype=np.int64))


def policy_rows(config: str, batch: Batch, effort: Effort) -> list[Row]:
    """A whole policy, drawing included, uint8 to uint8."""
    num, height, width, _ = batch.images_nhwc_u8.shape
    policy = parse_policy(config)
    assert policy is not None
    images, transform, states = pil_images(batch), timm_policy(config), _states(num)
    random.seed(0)
    np.random.seed(0)

    def theirs() -> None:
        for image in images:
            transform(image)

    return pair(
        f"timm on PIL: {config}",
        theirs,
        f"fastdeit: {config}",
        lambda: apply_all(batch, sample_operations(policy, states, height, width)),
        num,
        effort,
    )


def stage_rows(batch: Batch, effort: Effort) -> list[Row]:
    """From cropped uint8 images to what the model sees: flip, policy, normalise, erase, mix."""
    num, height, _, _ = batch.images_nhwc_u8.shape
    config, device = AugmentConfig(), batch.images_nhwc_u8.device
    transform = transforms_imagenet_train(
        height,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        auto_augment=PAPER,
        interpolation="bicubic",
        re_prob=config.erase_prob,
        re_mode=config.erase_mode,
    )
    # Its first step is a random crop, which is the loader's here.
    transform.transforms = transform.transforms[1:]
    mixup = Mixup(config.mixup_alpha, config.cutmix_alpha, num_classes=NUM_CLASSES)
    images, labels = pil_images(batch), batch.labels.cpu()
    images = images[: num // 2 * 2]

    def theirs() -> None:
        mixup(torch.stack([transform(image) for image in images]), labels[: len(images)])

    step = 0

    def ours() -> None:
        nonlocal step
        step += 1
        own = replace(batch, step=step)
        apply_augmentation(own, sample_augmentation(config, own, 0))
        wait(device)

    rows = pair(
        "timm on PIL and torch: the whole stage",
        theirs,
        "fastdeit: the whole stage",
        ours,
        num,
        effort,
        f"batch {num}, {height} px: flip, {PAPER}, normalise, erase, mix; on {device.type}",
    )
    bound, what = write_bound(batch)
    return [with_bound(row, bound, what) for row in rows]


def write_bound(batch: Batch) -> tuple[float, str]:
    """Images a second that can be read as uint8 and written as float32; and what that is."""
    images = batch.images_nhwc_u8
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    case = Case(name="copy", run=lambda: _copy(out, images))
    (row,) = measure("augment", "img/s", [case], Effort(5))
    per_image = images[0].numel() * 5
    return row.median, f"reading uint8, writing float32: {row.median * per_image / 1e9:.3g} GB/s"


def _copy(out: Tensor, images: Tensor) -> int:
    out.copy_(images)
    wait(images.device)
    return len(images)
