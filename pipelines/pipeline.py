"""What all engines share: the position in the plan, and turning crops into batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.cores import num_usable_cores
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.plan import Plan, StepPlan


class Pipeline(ABC):
    """An engine over a dataset and a plan; one pass over it is (the rest of) one epoch.

    A batch that was handed out is never written again. Leaving an epoch early is allowed; the next
    pass goes on after the last batch that was handed out.
    """

    name: str
    """What the engine is called on the command line."""

    def __init__(self, index: DatasetIndex, plan: Plan, threads: int = 0) -> None:
        """Begin at the first step of the first epoch.

        Args:
            index: the dataset.
            plan: which samples in which step, and how they are cropped.
            threads: decoding threads or workers; 0 takes every usable core.
        """
        if threads < 0:
            raise UserError(f"threads must be 0 or more. Found: {threads}. Pass --threads 0.")
        self.index = index
        self.plan = plan
        self.threads = threads or num_usable_cores()
        self._epoch = 0
        self._step = 0
        self._open: Generator[Tensor, None, None] | None = None

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return self.plan.num_steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of the epoch; ends an earlier pass."""
        Pipeline.close(self)
        epoch, first = self._epoch, self._step
        self._open = self._images(epoch, first)
        with closing(self._open) as images_of_steps:
            for step in self.plan.steps(epoch, first):
                images = next(images_of_steps, None)
                if images is None:
                    raise RuntimeError("this pass was ended by a newer one, or by close()")
                self._step = step.step + 1
                yield Batch(
                    images_nhwc_u8=images,
                    labels=torch.from_numpy(self.index.labels[step.samples]),
                    sample_keys=self.plan.keys[step.samples],
                    copies=step.copies,
                    epoch=epoch,
                    step=step.step,
                )
        self._epoch, self._step = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch and step of the next batch."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly at a position; the next pass begins there."""
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def close(self) -> None:
        """Free threads, memory and files.

        An engine calls this before it frees what its generator uses: after an exception the pass
        is still open, kept by the traceback.
        """
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Pipeline:
        """Enter a block that closes the pipeline at its end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pipeline."""
        self.close()

    @abstractmethod
    def _images(self, epoch: int, first_step: int) -> Generator[Tensor, None, None]:
        """Yield (b, S, S, 3) uint8 for each step of the epoch, from `first_step` on.

        The generator's `close` must stop whatever works ahead.
        """


def group_copies(step: StepPlan) -> list[tuple[int, int, int]]:
    """The runs of one image in a step: (sample number, first place, number of copies)."""
    starts = np.flatnonzero(np.diff(step.samples, prepend=-1))
    ends = np.append(starts[1:], len(step.samples))
    return [
        (int(step.samples[start]), int(start), int(end - start))
        for start, end in zip(starts, ends, strict=True)
    ]


def pin_if_useful(images: NDArray[np.uint8], copy: bool) -> Tensor:
    """A tensor of the host: pinned where a GPU can use that, a copy where asked."""
    tensor = torch.from_numpy(images)
    if torch.cuda.is_available():
        return tensor.pin_memory()
    return tensor.clone() if copy else tensor
