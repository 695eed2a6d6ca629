"""What all engines share: the position in the plan, images that do not decode, and the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.machine.side_stream import one_ahead
from fastdeit.machine.threads import num_rank_cores
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.bad_images import Replacements
from fastdeit.pipelines.engines.decode import BadImageError
from fastdeit.pipelines.plan.crops import check_sizes
from fastdeit.pipelines.plan.order import Plan, StepPlan

CPU = torch.device("cpu")
Reasons = dict[int, str]
"""Why samples did not decode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOptions:
    """What decides how a pipeline works, but not what it hands out."""

    threads: int = 0
    """Decoding threads or workers; 0 takes this rank's share of the usable cores."""
    device: torch.device = CPU
    """Where the batches are handed out."""
    bad_images: Literal["stop", "skip"] = "stop"
    """stop at an image that does not decode, or show its neighbour in the order of keys instead."""
    dali_device: Literal["cpu", "gpu"] = "cpu"
    """Where DALI decodes and resamples; gpu differs from PIL by a few levels."""
    hw_decoder_load: float = 0.65
    """Part of the images for the GPU's JPEG engine, with dali_device gpu."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UserError(f"threads must be 0 or more. Found: {self.threads}. Pass --threads 0.")
        if not 0 <= self.hw_decoder_load <= 1:
            raise UserError(
                f"hw_decoder_load must be from 0 to 1. Found: {self.hw_decoder_load}. "
                "Pass --hw-decoder-load 0.65, say."
            )


class Pipeline(ABC):
    """An engine over a dataset and a plan; one pass over it is (the rest of) one epoch.

    A batch that was handed out is never written again. Leaving an epoch early is allowed; the next
    pass goes on after the last batch that was handed out.
    """

    name: str
    """What the engine is called on the command line."""

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """Begin at the first step of the first epoch.

        Raises UserError if the plan is of another dataset, an image is too small for its crops, or
        the batches are wanted on a GPU that is not there.
        """
        if not np.array_equal(plan.keys, index.keys[: len(plan.keys)]):
            raise UserError(
                f"a plan must have the keys of the dataset. Found: others than those of "
                f"{index.path}. Make it with keys=index.keys."
            )
        if options.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"device must be there. Found: {options.device}, but no GPU. Pass --device cpu."
            )
        check_sizes(plan, index)
        self.index = index
        self.plan = plan
        self.options = options
        self.threads = options.threads or num_rank_cores()
        self.replacements = Replacements(index)
        self._is_closed = False
        self._epoch = 0
        self._step = 0
        self._open: Generator[tuple[Tensor, Reasons], None, None] | None = None
        self._requested: deque[StepPlan] = deque()

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return self.plan.num_steps

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of the epoch; ends an earlier pass.

        Raises RuntimeError if the pipeline was closed.
        """
        if self._is_closed:
            raise RuntimeError("this pipeline was closed; open another one")
        self._end_pass()
        epoch = self._epoch
        steps = list(self.plan.steps(epoch, self._step))
        self._requested = deque()
        self._open = self._images(self._requests(steps))
        with closing(self._open) as images_of_steps:
            batches = self._batches(steps, images_of_steps)
            for batch in _ahead_on_device(batches, self.options.device):
                self._step = batch.step + 1
                yield batch
        self._epoch, self._step = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch and step of the next batch. The world size may change in between."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly at a position; the next pass begins there.

        Raises UserError if it is no position in this plan.
        """
        epoch, step = state.get("epoch"), state.get("step")
        if not (
            isinstance(epoch, int)
            and isinstance(step, int)
            and epoch >= 0
            and 0 <= step <= self.plan.num_steps
        ):
            raise UserError(
                f"a position must be an epoch and a step of at most {self.plan.num_steps}. "
                f"Found: {state}. Give what state_dict gave."
            )
        self._epoch, self._step = epoch, step

    def close(self) -> None:
        """Free threads, memory and files; the pipeline cannot be used afterwards.

        An engine calls this before it frees what its generator uses: after an exception the pass
        is still open, kept by the traceback.
        """
        self._is_closed = True
        self._end_pass()

    def _end_pass(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    @abstractmethod
    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        """Yield for each request (b, S, S, 3) uint8, and which of its samples did not decode.

        What stands in the place of those does not matter. The requests may be taken ahead, by
        another thread too. The generator's `close` must stop whatever works ahead.
        """

    def _requests(self, steps: list[StepPlan]) -> Iterator[StepPlan]:
        """What is asked of the engine: steps without what is known not to decode, no empty ones."""
        requested = self._requested
        for step in steps:
            if len(step.samples):
                request = replace(step, samples=self.replacements.apply(step.samples))
                requested.append(request)
                yield request

    def _batches(
        self, steps: list[StepPlan], images_of_steps: Iterator[tuple[Tensor, Reasons]]
    ) -> Iterator[Batch]:
        """The batches on the host."""
        size = self.plan.image_size
        for step in steps:
            images = torch.empty((0, size, size, 3), dtype=torch.uint8)
            samples = step.samples
            if len(samples):
                made = next(images_of_steps, None)
                if made is None:
                    raise RuntimeError("this pass was ended by a newer one, or by close()")
                images, samples = self._repair(step, *made)
            yield Batch(
                images_nhwc_u8=images,
                labels=torch.from_numpy(self.index.labels[samples]),
                sample_keys=self.plan.keys[samples],
                copies=step.copies,
                epoch=step.epoch,
                step=step.step,
            )

    def _repair(
        self, step: StepPlan, images: Tensor, reasons: Reasons
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Put the neighbours of what did not decode in its place."""
        made = self._requested.popleft().samples
        for sample, reason in reasons.items():
            if self.options.bad_images == "stop":
                raise BadImageError(self.index, sample, reason)
            self.replacements.add(sample, reason)
        samples = self.replacements.apply(step.samples)
        self.replacements.count(step.samples)
        changed = np.flatnonzero(samples != made)
        if len(changed):
            self.replacements.draw(self.plan, replace(step, samples=samples), changed, images)
        return images, samples

    def _host_images(self, count: int) -> Tensor:
        """Memory for a step: (count, S, S, 3) uint8, pinned where it will go to a GPU."""
        size = self.plan.image_size
        return torch.empty(
            (count, size, size, 3),
            dtype=torch.uint8,
            pin_memory=self.options.device.type == "cuda",
        )


def group_copies(step: StepPlan, most: int | None = None) -> list[tuple[int, int, int]]:
    """The runs of one image in a step: (sample number, first place, number of copies).

    Longer runs than `most` are cut into parts of so many; an image that stands in for its neighbour
    may follow itself.
    """
    starts = np.flatnonzero(np.diff(step.samples, prepend=-1))
    ends = np.append(starts[1:], len(step.samples))
    return [
        (int(step.samples[start]), first, min(most or int(end - start), int(end) - first))
        for start, end in zip(starts, ends, strict=True)
        for first in range(int(start), int(end), most or int(end - start))
    ]


def _ahead_on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Hand out batches on a device."""

    def tensors(batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.images_nhwc_u8, batch.labels

    if device.type == "cuda":
        # Each is copied on a stream of its own, one batch ahead: while the caller's step runs, the
        # next batch is taken from the loader and its copy is under way. The images should be
        # pinned.
        batches = (_pinned(batch).to(device) for batch in batches)
    yield from one_ahead(batches, device, tensors)


def _pinned(batch: Batch) -> Batch:
    """The batch with its labels pinned too, or their copy would wait for everything before it."""
    if batch.labels.is_cuda:
        return batch
    return replace(batch, labels=batch.labels.pin_memory())
