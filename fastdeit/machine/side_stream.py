"""Working one item ahead on a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def one_ahead(
    items: Iterator[T], device: torch.device, tensors_of: Callable[[T], Iterable[Tensor]]
) -> Iterator[T]:
    """Hand out items of which the next is already under way on a GPU; on a CPU as they are.

    While the caller works on an item, the next is taken from the iterator, and what that starts on
    the GPU runs on a side stream, beside the caller's kernels. What making an item does on a GPU
    must go to the current stream. `tensors_of` are the tensors of an item that the caller will use;
    they are ready for its current stream.
    """
    if device.type != "cuda":
        yield from items
        return
    side = torch.cuda.Stream(device)
    waiting: tuple[T, torch.cuda.Event] | None = None
    while True:
        with torch.cuda.stream(side):
            item = next(items, None)
            made = None if item is None else (item, side.record_event())
        if waiting is not None:
            ready, event = waiting
            stream = torch.cuda.current_stream(device)
            stream.wait_event(event)
            for tensor in tensors_of(ready):
                tensor.record_stream(stream)  # its memory lives as long as its use there
            yield ready
        if made is None:
            return
        waiting = made
