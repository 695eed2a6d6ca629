"""Handing batches out on a GPU, with the next one on its way while a step runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fastdeit.batch import Batch
from fastdeit.side_stream import one_ahead


def ahead_on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Hand out batches on a device.

    On a GPU each is copied on a stream of its own, one batch ahead: while the caller's step runs,
    the next batch is taken from the loader and its copy is under way. The images should be pinned.

    Args:
        batches: on the host.
        device: where they are wanted; on the CPU they are handed out as they are.

    Yields:
        The batches, ready for the caller's current stream.
    """

    def tensors(batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.images_nhwc_u8, batch.labels

    if device.type == "cuda":
        batches = (_pinned(batch).to(device) for batch in batches)
    yield from one_ahead(batches, device, tensors)


def _pinned(batch: Batch) -> Batch:
    """The batch with its labels pinned too, or their copy would wait for everything before it."""
    if batch.labels.is_cuda:
        return batch
    return replace(batch, labels=batch.labels.pin_memory())
