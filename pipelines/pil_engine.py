"""PIL in a torch DataLoader: the oracle of the tests, the baseline, and the way in without FFCV."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastdeit import UserError
from fastdeit.pipelines.crops import plan_cuts
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.decode import decode_with_pil
from fastdeit.pipelines.pipeline import Pipeline, group_copies, pin_if_useful
from fastdeit.pipelines.plan import Plan

# A sample number and its cuts, (copies, 8) int32: what a worker is asked for.
Request = tuple[int, NDArray[np.int32]]


class PilPipeline(Pipeline):
    """Decodes and resamples with PIL in worker processes."""

    name = "pil"

    def __init__(self, index: DatasetIndex, plan: Plan, threads: int = 0) -> None:
        """See `Pipeline`; `threads` is the number of worker processes."""
        super().__init__(index, plan, threads)
        self._requests = _StepRequests(index, plan)
        # A fork server starts workers from a process without our threads: forking one that runs
        # OpenMP, CUDA or DALI threads can deadlock (ffcv#292, ffcv#312).
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._loader: DataLoader[Any] = DataLoader(
            _CroppedImages(index, plan.image_size),
            batch_sampler=self._requests,
            num_workers=self.threads,
            collate_fn=_concatenate,
            multiprocessing_context=context,
            persistent_workers=True,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )

    def _images(self, epoch: int, first_step: int) -> Generator[Tensor, None, None]:
        self._requests.position = (epoch, first_step)
        for images in self._loader:
            if isinstance(images, str):
                raise UserError(images)
            yield pin_if_useful(images, copy=False)

    def close(self) -> None:
        """Stop the workers."""
        super().close()
        iterator = self._loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ignore Ctrl-C in a worker: one that it ends takes 5 s to be given up by the DataLoader."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _StepRequests(Sampler[list[Request]]):
    """Yields what each step asks of the workers; lives in the main process."""

    def __init__(self, index: DatasetIndex, plan: Plan) -> None:
        self.index, self.plan = index, plan
        self.position = (0, 0)

    def __iter__(self) -> Iterator[list[Request]]:
        for step in self.plan.steps(*self.position):
            cuts = plan_cuts(self.plan, self.index, step)
            yield [(sample, cuts[first : first + num]) for sample, first, num in group_copies(step)]

    def __len__(self) -> int:
        return self.plan.num_steps - self.position[1]


class _CroppedImages(Dataset[Any]):
    """Answers a request with (copies, S, S, 3) uint8, or with the text of an error."""

    def __init__(self, index: DatasetIndex, size: int) -> None:
        self.index, self.size = index, size

    def __getitem__(self, request: Request) -> NDArray[np.uint8] | str:
        sample, cuts = request
        try:
            image = decode_with_pil(self.index, sample)
        except UserError as error:  # as text: a DataLoader would wrap it in a traceback
            return str(error)
        return np.stack([resample_with_pil(image, cut, self.size) for cut in cuts])


def resample_with_pil(image: Image.Image, cut: NDArray[np.int32], size: int) -> NDArray[np.uint8]:
    """Resample one cut with PIL: crop, resize the whole rectangle, crop the window.

    Args:
        image: RGB.
        cut: (8,) columns as in `crops.CUT`.
        size: side of the output.

    Returns:
        (size, size, 3) uint8.
    """
    top, left, height, width, full_height, full_width, window_top, window_left = map(int, cut)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((full_width, full_height), Image.Resampling.BICUBIC)
    window = (window_left, window_top, window_left + size, window_top + size)
    return np.asarray(image.crop(window))


def _concatenate(parts: list[NDArray[np.uint8] | str]) -> NDArray[np.uint8] | str:
    """Join the answers of one step, or pass on the first error."""
    errors = [part for part in parts if isinstance(part, str)]
    if errors:
        return errors[0]
    return np.concatenate(parts)
