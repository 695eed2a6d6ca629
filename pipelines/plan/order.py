"""Which samples make up each step: a pure function of (seed, epoch, step), whoever decodes.

An epoch of training is a stream of (image, copy): a keyed permutation of the images, each followed
by its copies, cut to the epoch's length. Global step `t` is `stream[t*B : (t+1)*B]`, and rank `r`
takes the `r`-th contiguous part of it; so the global batches do not depend on the world size, and
the copies of an image stay together and are decoded once.

Which images of unequal classes an epoch shows is in `sampling`; the published code's order, which
depends on the world size, in `upstream_order`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError, keyed
from fastdeit.keyed import Purpose
from fastdeit.pipelines.plan.sampling import Sampling, sampled_images
from fastdeit.pipelines.plan.upstream_order import ROUND_TO, num_selected, upstream_order

DEFAULT_SCALE = (0.08, 1.0)
DEFAULT_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The samples of one step of one process, in order."""

    epoch: int
    """From 0."""
    step: int
    """From 0 within the epoch."""
    samples: NDArray[np.int64]
    """(b,) sample numbers; in the keyed order equal ones are neighbours."""
    copies: NDArray[np.int64]
    """(b,) which showing of the image in its epoch, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """Order and crops of a training or evaluation pass."""

    keys: NDArray[np.uint64]
    """(N,) the stable key of each sample."""
    batch_size: int
    """Samples a step over all processes, copies counted."""
    image_size: int
    """Side of the crops handed out, in pixels."""
    is_training: bool
    """Random crops in keyed order, rather than centre crops in file order."""
    seed: int = 0
    """Of order and crops; without effect in evaluation."""
    repeats: int = 1
    """How often an image is shown in a row; without effect in evaluation."""
    order: Literal["keyed", "upstream"] = "keyed"
    """upstream: that of the published RASampler; without effect in evaluation."""
    sampling: Sampling = "natural"
    """How often each class is shown: as often as it has images, in proportion to the square root of
    their number, or as often as all others; without effect in evaluation."""
    labels: NDArray[np.int64] | None = None
    """(N,) the class of each sample; only another sampling than natural needs them."""
    crop: Literal["resized", "padded", "center"] = "resized"
    """resized: RandomResizedCrop; padded: a random part of the black-bordered image, unresized;
    center: as in evaluation, where this has no effect."""
    crop_scale: tuple[float, float] = DEFAULT_SCALE
    """Least and greatest part of the image's area in a resized crop."""
    crop_ratio: tuple[float, float] = DEFAULT_RATIO
    """Least and greatest width over height of a resized crop."""
    crop_padding: int = 4
    """Width of the border of a padded crop, in pixels."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are resampled, in evaluation too."""
    eval_crop_ratio: float = 0.875
    """Of centre crops: image_size over the shorter side after resizing."""
    rank: int = 0
    """Which process this is."""
    world_size: int = 1
    """How many processes share each step."""

    def __post_init__(self) -> None:
        if len(self.keys) == 0:
            raise UserError("a dataset must hold an image. Found: none. Convert the source again.")
        low, high = self.crop_scale
        narrow, wide = self.crop_ratio
        for name, is_right, rule in (
            ("keys", getattr(self.keys, "dtype", None) == np.uint64, "be the keys of an index"),
            ("batch_size", isinstance(self.batch_size, int), "be a whole number"),
            ("batch_size", self.batch_size >= 1, "be at least 1"),
            ("image_size", self.image_size >= 1, "be at least 1"),
            ("repeats", self.repeats >= 1, "be at least 1"),
            ("order", self.order in ("keyed", "upstream"), "be keyed or upstream"),
            (
                "sampling",
                self.sampling in ("natural", "sqrt", "balanced"),
                "be natural, sqrt or balanced",
            ),
            (
                "sampling",
                self.sampling == "natural" or self.order == "keyed",
                "be natural in upstream's order",
            ),
            (
                "labels",
                self.sampling == "natural"
                or (self.labels is not None and self.labels.shape == self.keys.shape),
                "be the class of each sample",
            ),
            (
                "crop",
                self.crop in ("resized", "padded", "center"),
                "be resized, padded or center",
            ),
            ("crop_scale", 0 < low <= high <= 1, "be two numbers above 0 and at most 1"),
            ("crop_ratio", 0 < narrow <= wide, "be two numbers above 0, the smaller first"),
            ("crop_padding", self.crop_padding >= 0, "be 0 or more"),
            (
                "interpolation",
                self.interpolation in ("bicubic", "bilinear"),
                "be bicubic or bilinear",
            ),
            ("eval_crop_ratio", 0 < self.eval_crop_ratio <= 1, "be above 0 and at most 1"),
            ("world_size", self.world_size >= 1, "be at least 1"),
        ):
            if not is_right:
                found = getattr(self, name)
                raise UserError(f"{name} of a plan must {rule}. Found: {found}. See Plan.{name}.")
        if not 0 <= self.rank < self.world_size:
            raise UserError(
                f"rank must be from 0 to world_size - 1 ({self.world_size - 1}). "
                f"Found: {self.rank}. Start the processes with torchrun."
            )
        if not self.is_training:
            return
        if self.batch_size < self.world_size:
            raise UserError(
                f"batch_size must be at least the number of processes ({self.world_size}). "
                f"Found: {self.batch_size}. Pass a larger --batch-size."
            )
        if self.order == "upstream" and self.batch_size % self.world_size:
            raise UserError(
                f"batch_size must be a multiple of the number of processes ({self.world_size}) "
                f"with upstream's order. Found: {self.batch_size}. Pass another --batch-size, or "
                "leave out --compat upstream."
            )
        if self.num_steps == 0:
            raise UserError(
                f"batch_size must be at most an epoch's samples ({self.epoch_samples}). "
                f"Found: {self.batch_size}. Pass a smaller --batch-size."
            )

    @property
    def epoch_samples(self) -> int:
        """How many samples an epoch shows over all processes, before it is cut into steps.

        Source: deit samplers.py:RASampler: the images, rounded down to a multiple of 256, whatever
        the number of repeats. Differs in keeping all of them where there are fewer than 256
        (upstream shows none) and without repeats (upstream uses another sampler there).
        """
        num = len(self.keys)
        if self.is_training and self.order == "upstream":
            return self.world_size * num_selected(num, self.repeats, self.world_size)
        if not self.is_training or self.repeats == 1 or num < ROUND_TO:
            return num
        return num // ROUND_TO * ROUND_TO

    @property
    def num_steps(self) -> int:
        """Steps an epoch: training drops what does not fill a batch, evaluation keeps it."""
        if self.is_training:
            return self.epoch_samples // self.batch_size
        return -(-self.epoch_samples // self.batch_size)

    @property
    def max_local_batch(self) -> int:
        """The most samples that one process gets in a step."""
        return -(-self.batch_size // self.world_size)

    def steps(self, epoch: int, first_step: int = 0) -> Iterator[StepPlan]:
        """This process's part of each step of an epoch, which counts from 0.

        Resuming from `first_step` is a seek. In evaluation the last part may be empty; every
        process has the same number of steps.
        """
        samples, copies = self.stream(epoch)
        for step in range(first_step, self.num_steps):
            own = self.share(step)
            yield StepPlan(epoch, step, samples[own], copies[own])

    def share(self, step: int) -> slice:
        """Where this process's part of a step lies in the stream of an epoch."""
        begin = step * self.batch_size
        size = min(self.batch_size, self.epoch_samples - begin)
        return slice(
            begin + size * self.rank // self.world_size,
            begin + size * (self.rank + 1) // self.world_size,
        )

    def stream(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The whole epoch over all processes: (sample numbers, copies), each (epoch_samples,).

        Step `t` of rank `r` is the `r`-th part of `stream[t * batch_size : (t+1) * batch_size]`.
        """
        num = len(self.keys)
        if not self.is_training:
            return np.arange(num), np.zeros(num, dtype=np.int64)
        if self.order == "upstream":
            local_batch = self.batch_size // self.world_size
            return upstream_order(num, self.repeats, self.world_size, local_batch, epoch)
        num_images = -(-self.epoch_samples // self.repeats)
        samples, times = self._images(num_images, epoch)
        copies = self.repeats * times[:, None] + np.arange(self.repeats)
        shown = slice(self.epoch_samples)
        return np.repeat(samples, self.repeats)[shown], copies.reshape(-1)[shown]

    def _images(self, num_images: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The images of an epoch in their order, and how often each was there before."""
        if self.sampling != "natural":
            assert self.labels is not None
            return sampled_images(
                self.keys, self.labels, self.sampling, num_images, self.seed, epoch
            )
        # The order is that of a keyed hash of the keys, so it does not depend on where a container
        # keeps a sample; equal keys would fall back on their place in it.
        state = np.full(len(self.keys), keyed.epoch_state(self.seed, Purpose.ORDER, epoch))
        order = np.argsort(keyed.absorb(state, self.keys), kind="stable")[:num_images]
        return order, np.zeros(num_images, dtype=np.int64)
