"""What a pipeline hands to the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's samples of one process."""

    images_nhwc_u8: Tensor
    """(B, H, W, 3) uint8, cropped and resized, neither flipped nor normalised."""
    labels: Tensor
    """(B,) int64, on the device of the images."""
    sample_keys: NDArray[np.uint64]
    """(B,) uint64 on the host: the stable key of each image."""
    copies: NDArray[np.int64]
    """(B,) int64 on the host: which showing of the image in its epoch, from 0."""
    epoch: int
    """The epoch that the samples belong to, from 0."""
    step: int
    """The step within the epoch, from 0."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the keys stay on the host."""
        return Batch(
            self.images_nhwc_u8.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.sample_keys,
            self.copies,
            self.epoch,
            self.step,
        )


class BatchSource(Protocol):
    """What the loop asks of a pipeline: one pass over it is (the rest of) one epoch."""

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of the epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position: `epoch` and `step`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly at a position that `state_dict` gave."""
        ...

    def close(self) -> None:
        """Free threads, memory and files; the source cannot be used afterwards."""
        ...

    def __enter__(self) -> BatchSource: ...

    def __exit__(self, *raised: Any) -> None: ...
