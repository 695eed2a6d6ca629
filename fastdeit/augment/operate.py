"""Doing the drawn operations to a batch: batched torch on any device, compiled loops on a CPU."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.augment.batched import blend, blur, hue, tone, warp
from fastdeit.augment.decisions import Operations
from fastdeit.augment.upload import upload
from fastdeit.policies.operations import Op

log = logging.getLogger(__name__)

Implementation = Literal["auto", "torch", "numba"]

WORK_PART = 3.5
"""How much memory a group's intermediate results may take, over the batch's bytes: with the copy
that is worked on, 3 times the batch and the 2 of a bf16 result, which is made later."""
LEAST_WORK_BYTES = 1 << 24


def apply_operations(
    images: Tensor, operations: Operations, implementation: Implementation = "auto"
) -> Tensor:
    """Do to each image what was drawn for it.

    Args:
        images: (B, H, W, 3) uint8, of any strides; not changed.
        operations: for these B images.
        implementation: torch (batched, every device), numba (CPU), or auto: numba on a CPU.

    Returns:
        (B, H, W, 3) uint8, contiguous: PIL's result in every byte.

    Raises:
        ValueError: images and operations do not fit, or numba is asked for on a GPU.

    Note: nothing waits for the device; the host only groups the images by what they get.
    """
    return operate_(images.clone(memory_format=torch.contiguous_format), operations, implementation)


def operate_(
    images: Tensor, operations: Operations, implementation: Implementation = "auto"
) -> Tensor:
    """As `apply_operations`, in place on a contiguous tensor, which is returned."""
    check_images(images)
    if operations.op.shape[1] != len(images):
        raise ValueError(
            f"operations must be drawn for {len(images)} images. Found: {operations.op.shape[1]}."
        )
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation must be one of {', '.join(get_args(Implementation))}. Found: "
            f"{implementation!r}. Leave it out."
        )
    if implementation == "auto":
        implementation = choose_implementation(images.device.type)
    if implementation == "numba":
        if images.device.type != "cpu":
            raise ValueError(f"numba works on a CPU. Found: {images.device}. Pass torch.")
        _operate_with_numba(images.numpy(), operations)
    else:
        _operate_with_torch(images, operations)
    return images


def check_images(images: Tensor) -> None:
    """Raise ValueError for what is not a batch of images as loaders give it."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            "images must be (B, H, W, 3) uint8. Found: "
            f"{tuple(images.shape)} {images.dtype}. Pass them before normalising."
        )


@functools.cache
def choose_implementation(device_type: str) -> Literal["torch", "numba"]:
    """What `auto` takes on a kind of device; the reason is logged once."""
    if device_type == "cpu":
        log.info(
            "augmentation by numba: the fastest on a CPU (`fastdeit bench augment`); compiled when "
            "first used, for about 12 s, and kept on disk"
        )
        return "numba"
    log.info("augmentation by batched torch: nothing faster was measured on %s", device_type)
    return "torch"


def _operate_with_numba(images: NDArray[np.uint8], operations: Operations) -> None:
    """Do every slot, in place, with torch's number of threads."""
    from fastdeit.augment.cpu.kernels import apply_slot

    num, height, width, _ = images.shape
    fill = np.array(operations.fill, dtype=np.uint8)
    slots = []
    for op, argument, is_bilinear in zip(
        operations.op, operations.argument, operations.is_bilinear, strict=True
    ):
        blurred = np.flatnonzero(op == Op.GAUSSIAN_BLUR)
        weights = np.zeros((num, 1), dtype=np.int32)
        if len(blurred):
            (own,) = blur.prepare(argument[blurred])
            weights = np.zeros((num, own.shape[1]), dtype=np.int32)
            weights[blurred] = own
        tables = tone.prepare(op, argument)[0]
        matrix = warp.matrices(op, argument, height, width)
        slots.append((op, argument.astype(np.float32), tables, matrix, is_bilinear, weights))

    def run(part: slice) -> None:
        for op, factor, tables, matrix, is_bilinear, weights in slots:
            apply_slot(
                images[part],
                op[part],
                factor[part],
                tables[part],
                matrix[part],
                is_bilinear[part],
                fill,
                weights[part],
            )

    num_threads = min(torch.get_num_threads(), num)
    if num_threads <= 1:
        run(slice(0, num))
        return
    # Several parts a thread, since some images take much longer than others.
    size = math.ceil(num / (4 * num_threads))
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(run, (slice(i, i + size) for i in range(0, num, size))))


class Group(NamedTuple):
    """Operations that one function does to many images at once."""

    ops: frozenset[Op]
    prepare: Callable[..., list[NDArray[Any]]]
    """(op, argument) to what the function needs of the host."""
    apply: Callable[..., Tensor]
    """(images (n, H, W, 3) uint8, what was prepared) to the same shape."""
    work_bytes: int
    """Bytes of intermediate results for each byte of an image."""


GROUPS = (
    Group(tone.OPS, tone.prepare, tone.apply, 12),
    Group(frozenset((Op.COLOR,)), lambda _, a: blend.prepare(a), blend.apply_color, 20),
    Group(frozenset((Op.SHARPNESS,)), lambda _, a: blend.prepare(a), blend.apply_sharpness, 16),
    Group(frozenset((Op.HUE,)), lambda _, a: hue.prepare(a), hue.apply, 90),
    Group(frozenset((Op.GAUSSIAN_BLUR,)), lambda _, a: blur.prepare(a), blur.apply, 24),
)


def _operate_with_torch(images: Tensor, operations: Operations) -> None:
    """Do every slot, in place, a group of like operations at a time."""
    jobs = list(_jobs(operations, images))
    arrays = [array for _, own in jobs for array in own]
    tensors = iter(upload(arrays, images.device))
    for apply, own in jobs:
        index, *prepared = (next(tensors) for _ in own)
        images.index_copy_(0, index, apply(images.index_select(0, index), *prepared))


Job = tuple[Callable[..., Tensor], list[NDArray[Any]]]


def _jobs(operations: Operations, images: Tensor) -> Iterator[Job]:
    """What is done in turn: a function, the indices of its images and what else it takes."""
    num, height, width, _ = images.shape
    image_bytes = height * width * 3
    budget = max(LEAST_WORK_BYTES, int(WORK_PART * num * image_bytes))

    def parts(chosen: NDArray[np.bool_], work_bytes: int) -> Iterator[NDArray[np.int64]]:
        index = np.flatnonzero(chosen)
        size = max(1, budget // (work_bytes * image_bytes))
        for start in range(0, len(index), size):
            yield index[start : start + size]

    for op, argument, is_bilinear in zip(
        operations.op, operations.argument, operations.is_bilinear, strict=True
    ):
        for group in GROUPS:
            for index in parts(np.isin(op, list(group.ops)), group.work_bytes):
                yield group.apply, [index, *group.prepare(op[index], argument[index])]
        is_warp = np.isin(op, list(warp.OPS))
        if not is_warp.any():
            continue
        matrix = warp.matrices(op, argument, height, width)
        axis = warp.axis_of(matrix, height, width)
        for bilinear in (False, True):
            wanted = is_warp & (is_bilinear == bilinear)
            taps = 2 if bilinear else 4
            for along in (0, 1, 2):
                apply: Callable[..., Tensor] = functools.partial(
                    warp.apply_any, is_bilinear=bilinear
                )
                # int16 taps, and three differences of them and a float64 sum for each line.
                work_bytes = 2 * taps * taps + 14 * taps + 40
                if along:
                    apply = functools.partial(warp.apply_along, axis=along, is_bilinear=bilinear)
                    work_bytes = 40
                for index in parts(wanted & (axis == along), work_bytes):
                    yield apply, [index, *warp.prepare(matrix[index], operations.fill)]
