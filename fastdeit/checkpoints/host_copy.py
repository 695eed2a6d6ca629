"""Copies of tensors in host memory, taken without waiting for the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdeit.checkpoints.checksum import map_content

BLOCK_BYTES = 64 << 20
# A cache line; what vectorised copies like best.
ALIGN_BYTES = 64


class _Place(NamedTuple):
    """What the copy of one tensor looks like."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    is_pinned: bool

    def num_bytes(self) -> int:
        """Of the values, without what aligns them."""
        return self.shape.numel() * self.dtype.itemsize


class HostCopy:
    """Host memory for the tensors of a content, kept from one copy to the next.

    The copies lie in few large blocks, pinned for tensors on a GPU, because the allocator of pinned
    memory rounds each request up to a power of two. Each copy is a storage of its own all the same,
    for torch saves storages whole.
    """

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def take(self, content: dict[str, Any]) -> tuple[dict[str, Any], list[torch.cuda.Event]]:
        """Copy every tensor, each once however often it occurs.

        Tensors that share memory in part are copied one by one. Strides are kept where a tensor
        fills its memory (channels-last); else the copy is contiguous.

        Returns:
            (the content with the copies in the tensors' places, events). On a GPU the copies are
            there when the events have come; what the current stream does to the tensors later does
            not touch them. The next call writes over the copies.

        Raises:
            TypeError: something in the content cannot be saved.

        Note: waits for no device, but pinned memory is allocated when the first content comes, or
        one with other shapes, and CUDA may wait for that.
        """
        numbers: dict[Hashable, int] = {}
        sources: list[Tensor] = []

        def gather(tensor: Tensor) -> Tensor:
            identity = _identity(tensor)
            if identity not in numbers:
                numbers[identity] = len(sources)
                sources.append(tensor.detach().resolve_conj().resolve_neg())
            return tensor

        map_content(content, gather)
        self._reserve([_place(source) for source in sources])
        for source, copy, place in zip(sources, self._copies, self._places, strict=True):
            copy.copy_(source, non_blocking=place.is_pinned)
        events = []
        for device in sorted({s.device for s in sources if s.is_cuda}, key=str):
            # A blocking event lets the thread that waits for it sleep instead of spin.
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(device))
            events.append(event)
        copied = map_content(content, lambda tensor: self._copies[numbers[_identity(tensor)]])
        return copied, events

    def num_bytes(self) -> int:
        """How much host memory is kept for the copies' values."""
        return sum(place.num_bytes() for place in self._places)

    def _reserve(self, places: list[_Place]) -> None:
        """Make room for copies; nothing happens if they are as they were the last time."""
        if places == self._places:
            return
        self._places, self._copies = [], []  # first: so that the old memory can be had again
        copies: list[Tensor | None] = [None] * len(places)
        for is_pinned in (False, True):
            offsets: dict[int, tuple[int, int]] = {}
            sizes: list[int] = []
            for number, place in enumerate(places):
                if place.is_pinned == is_pinned:
                    size = -(-place.num_bytes() // ALIGN_BYTES) * ALIGN_BYTES
                    if not sizes or sizes[-1] + size > BLOCK_BYTES:
                        sizes.append(0)
                    offsets[number] = (len(sizes) - 1, sizes[-1])
                    sizes[-1] += size
            blocks = [torch.empty(n, dtype=torch.uint8, pin_memory=is_pinned) for n in sizes]
            for number, (block, offset) in offsets.items():
                copies[number] = _tensor_in(blocks[block], offset, places[number])
        self._places = places
        self._copies = [copy for copy in copies if copy is not None]


def _identity(tensor: Tensor) -> Hashable:
    """Equal for two tensors that are the same values in the same memory."""
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _place(tensor: Tensor) -> _Place:
    """What the copy of a tensor looks like: dense, in the tensor's own order where it has one."""
    strides: Sequence[int] = tensor.stride()
    if not tensor.is_contiguous():
        strides = torch.empty_like(tensor, device="meta").stride()
    return _Place(tensor.shape, tuple(strides), tensor.dtype, tensor.is_cuda)


def _tensor_in(block: Tensor, offset: int, place: _Place) -> Tensor:
    """A tensor whose storage is a part of a block, which it keeps alive."""
    count = place.shape.numel()
    if count == 0:
        return torch.empty_strided(place.shape, place.strides, dtype=place.dtype)
    flat = torch.frombuffer(block.numpy(), dtype=place.dtype, count=count, offset=offset)
    return flat.as_strided(place.shape, place.strides)
