"""Handing batches out on a GPU, with the next one on its way while a step runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from fastdeit.batch import Batch


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
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    while True:
        with torch.cuda.stream(side):  # also for what an engine does on the GPU itself
            batch = next(batches, None)
            copied = None if batch is None else (_pinned(batch).to(device), side.record_event())
        if waiting is not None:
            yield _ready(*waiting)
        if copied is None:
            return
        waiting = copied


def _pinned(batch: Batch) -> Batch:
    """The batch with its labels pinned too, or their copy would wait for everything before it."""
    if batch.labels.is_cuda:
        return batch
    return replace(batch, labels=batch.labels.pin_memory())


def _ready(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the caller's stream wait for the copy, and its memory live as long as its use there."""
    stream = torch.cuda.current_stream(batch.labels.device)
    stream.wait_event(copied)
    for tensor in (batch.images_nhwc_u8, batch.labels):
        tensor.record_stream(stream)
    return batch
