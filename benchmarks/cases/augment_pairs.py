"""What `fastdeit bench augment` measures: ours and timm's on PIL, in turns.

On one core, so that a rate is that of one worker; on a GPU the whole stage on the device.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

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
from fastdeit.augment.timm_on_pil import apply_with_pil, timm_policy
from fastdeit.batch import Batch
from fastdeit.benchmarks.cases.augment import PAPER, AugmentOptions
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import Case, Effort, measure
from fastdeit.config.augment import AugmentConfig
from fastdeit.keyed import Purpose
from fastdeit.machine.device import choose_compute
from fastdeit.measured.rows import Row, with_bound
from fastdeit.policies import NAMED_OPS, parse_policy
from fastdeit.policies import one_operation as policy_of
from fastdeit.policies.policy import FILL

OTHER_POLICIES = ("original", "3a")
LEVEL = 9.0
OPERATIONS = (
    "AutoContrast Equalize Invert PosterizeIncreasing SolarizeIncreasing SolarizeAdd "
    "ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing Rotate ShearX "
    "ShearY TranslateXRel TranslateYRel GaussianBlur"
).split()
NUM_CLASSES = 1000


def measure_augment(record: Record, asked: AugmentOptions, is_brief: bool) -> None:
    """Measure the augmentation on a device beside timm's on one core of the CPU.

    For each operation (at level 9) and policy a row of timm's on PIL and one of ours; then the
    whole stage in both ways, in the precision of training there. The bound of the stage is reading
    its images and writing its result. Brief is only the paper's policy and the whole stage.
    """
    compute, num_images = choose_compute(asked.device), asked.batch_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = photographs(num_images, asked.image_size, compute.device)
        dtype = compute.autocast_dtype or torch.float32
        makers: list[Callable[[], Pair]] = [
            partial(_whole_stage, batch, dtype),
            partial(_whole_policy, PAPER, batch),
        ]
        if not is_brief:
            makers += [partial(_whole_policy, name, batch) for name in OTHER_POLICIES]
            makers += [partial(_one_operation, name, batch) for name in OPERATIONS]
        # On a GPU rates depend on the batch; on one core they do not.
        case = f"augment, batch {num_images}" if compute.device.type == "cuda" else "augment"
        for number, make in enumerate(makers):
            pair = make()
            with record.part(f"{case}: {pair.name}"):
                effort = record.effort(asked.rounds, 1 / (len(makers) - number))
                record.add(pair.rows(case, num_images, effort, asked.peers))
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


def _pil_images(batch: Batch) -> list[Image.Image]:
    """The same pictures for PIL."""
    return [Image.fromarray(image) for image in batch.images_nhwc_u8.cpu().numpy()]


def _apply_all(batch: Batch, operations: Operations) -> Tensor:
    """Ours; returns when the device is done."""
    result = apply_operations(batch.images_nhwc_u8, operations)
    wait(result.device)
    return result


def wait(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What timm does on PIL, and what ours does."""

    name: str
    ours: Callable[[], object]
    """Does a batch, and waits for it."""
    theirs: Callable[[], object]
    """Likewise."""
    note: str | None = None
    """Of our row."""
    baseline: str = "timm on PIL"
    """What theirs is."""
    bound: tuple[float, str] | None = None
    """A rate that neither exceeds, and what it is."""

    def rows(self, case: str, num: int, effort: Effort, has_peers: bool) -> list[Row]:
        """Time them in turns, or ours alone."""

        def counted(function: Callable[[], object]) -> Callable[[], int]:
            def run() -> int:
                function()
                return num

            return run

        their_name = f"{self.baseline}: {self.name}"
        cases = [Case(name=f"fastdeit: {self.name}", run=counted(self.ours))]
        if has_peers:
            theirs = Case(name=their_name, run=counted(self.theirs), may_fail=True)
            cases.insert(0, theirs)
        rows = measure(case, "img/s", cases, effort, [their_name] if has_peers else [])
        rows[-1] = replace(rows[-1], note=self.note, batch_size=num)
        return rows if self.bound is None else [with_bound(row, *self.bound) for row in rows]


def _one_operation(name: str, batch: Batch) -> Pair:
    """One operation at level 9, with a sign for each image."""
    num, height, width, _ = batch.images_nhwc_u8.shape
    drawn = sample_operations(policy_of(name, LEVEL), _states(num), height, width)
    images, op = _pil_images(batch), NAMED_OPS[name].op

    def theirs() -> None:
        for image, argument in zip(images, drawn.argument[0].tolist(), strict=True):
            apply_with_pil(image, op, argument, FILL)

    return Pair(name=name, theirs=theirs, ours=lambda: _apply_all(batch, drawn))


def _states(num: int) -> keyed.U64:
    keys = np.arange(num, dtype=np.uint64)
    return keyed.sample_states(0, Purpose.POLICY, 0, keys, np.zeros(num, dtype=np.int64))


def _whole_policy(config: str, batch: Batch) -> Pair:
    """A whole policy, drawing included, uint8 to uint8."""
    num, height, width, _ = batch.images_nhwc_u8.shape
    policy = parse_policy(config)
    assert policy is not None
    images, transform, states = _pil_images(batch), timm_policy(config), _states(num)
    random.seed(0)
    np.random.seed(0)

    def theirs() -> None:
        for image in images:
            transform(image)

    def ours() -> None:
        _apply_all(batch, sample_operations(policy, states, height, width))

    return Pair(name=config, theirs=theirs, ours=ours)


def _whole_stage(batch: Batch, dtype: torch.dtype) -> Pair:
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
    images, labels = _pil_images(batch), batch.labels.cpu()
    images = images[: num // 2 * 2]

    def theirs() -> None:
        mixup(torch.stack([transform(image) for image in images]), labels[: len(images)])

    step = 0

    def ours() -> None:
        nonlocal step
        step += 1
        own = replace(batch, step=step)
        apply_augmentation(own, sample_augmentation(config, own, 0), dtype)
        wait(device)

    return Pair(
        name="the whole stage",
        theirs=theirs,
        ours=ours,
        note=f"batch {num}, {height} px: flip, {PAPER}, normalise, erase, mix; to {words(dtype)} "
        f"on {device.type}",
        baseline="timm on PIL and torch",
        bound=_write_bound(batch, dtype),
    )


def _write_bound(batch: Batch, dtype: torch.dtype) -> tuple[float, str]:
    """Images a second that can be read as uint8 and written in a dtype; and what that is."""
    images = batch.images_nhwc_u8
    out = torch.empty(images.shape, dtype=dtype, device=images.device)
    case = Case(name="copy", run=lambda: _copy(out, images))
    (row,) = measure("augment", "img/s", [case], Effort(5))
    rate = row.median * images[0].numel() * (1 + dtype.itemsize) / 1e9
    return row.median, f"reading uint8, writing {words(dtype)}: {rate:.3g} GB/s"


def words(dtype: torch.dtype) -> str:
    """A dtype's name: float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def _copy(out: Tensor, images: Tensor) -> int:
    out.copy_(images)
    wait(images.device)
    return len(images)
