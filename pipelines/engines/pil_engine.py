"""PIL in a torch DataLoader: the oracle of the tests, the baseline, and the way in without FFCV."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastdeit import UserError
from fastdeit.machine.stopping import SIGNALS
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.decode import BadImageError, decode_with_pil
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions, Reasons, group_copies
from fastdeit.pipelines.plan.crops import BICUBIC, crop_rule, plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

DEAF = "fastdeit.pipelines.engines.deaf_forkserver"

# A sample number and its cuts, (copies, 8) int32: what a worker is asked for.
Request = tuple[int, NDArray[np.int32]]

_WITH_WORKERS: weakref.WeakSet[PilPipeline] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End the workers of pipelines that nobody closed."""
    # At its exit Python sends SIGTERM to processes that are left and waits; ours ignore it. This is
    # registered after multiprocessing's exit (imported above), and so runs before it.
    for pipeline in list(_WITH_WORKERS):
        pipeline.close()


class PilPipeline(Pipeline):
    """Decodes and resamples with PIL in worker processes."""

    name = "pil"

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """See `Pipeline`; `threads` is the number of worker processes."""
        super().__init__(index, plan, options)
        self._asked = _StepRequests(index, plan)
        # A fork server starts workers from a process without our threads: forking one that runs
        # OpenMP, CUDA or DALI threads can deadlock (ffcv#292, ffcv#312).
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([DEAF, __name__])
        _start_tracker()
        self._loader: DataLoader[Any] = DataLoader(
            # Each worker has its own copy, without what it does not need: half of it.
            _CroppedImages(
                replace(index, names=None, checksums=None), plan.image_size, crop_rule(plan).radius
            ),
            batch_sampler=self._asked,
            num_workers=self.threads,
            collate_fn=_concatenate,
            multiprocessing_context=context,
            persistent_workers=True,
            worker_init_fn=_follow_the_parent,
        )
        _WITH_WORKERS.add(self)

    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        self._asked.steps = requests
        for made in self._loader:
            if isinstance(made, Exception):  # as it was: the DataLoader would make a text of it
                raise made
            drawn, reasons = made
            images = self._host_images(len(drawn))
            images.numpy()[:] = drawn
            yield images, reasons

    def close(self) -> None:
        """Stop the workers."""
        super().close()
        iterator = self._loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None


def _start_tracker() -> None:
    """Start multiprocessing's tracker of semaphores; it stays when a job is asked to stop."""
    # It is deaf to SIGINT and SIGTERM by itself. SIGUSR1, which torchrun sends to all processes of
    # a session, is blocked for good in what is started while it is blocked here.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_the_parent(worker: int) -> None:
    """Leave requests to stop to the parent, and end with it."""
    del worker
    # The parent may still need batches, and the DataLoader has made SIGTERM end a worker. One that
    # Ctrl-C ends takes 5 s to be given up by the DataLoader.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    # The DataLoader's own watch looks whether the process that forked a worker is there, which is
    # the fork server: after a killed parent its workers would stay for ever.
    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _StepRequests(Sampler[list[Request]]):
    """Yields what each step asks of the workers; lives in the main process."""

    def __init__(self, index: DatasetIndex, plan: Plan) -> None:
        self.index, self.plan = index, plan
        self.steps: Iterator[StepPlan] = iter(())

    def __iter__(self) -> Iterator[list[Request]]:
        for step in self.steps:
            cuts = plan_cuts(self.plan, self.index, step)
            yield [(sample, cuts[first : first + num]) for sample, first, num in group_copies(step)]


class _CroppedImages(Dataset[Any]):
    """Answers a request with (copies, S, S, 3) uint8, and the reason if it did not decode.

    Or with the error that the dataset could not be read.
    """

    def __init__(self, index: DatasetIndex, size: int, radius: int) -> None:
        self.index, self.size, self.radius = index, size, radius

    def __getitem__(self, request: Request) -> tuple[NDArray[np.uint8], Reasons] | Exception:
        sample, cuts = request
        try:
            image = decode_with_pil(self.index, sample)
        except BadImageError as error:
            shape = (len(cuts), self.size, self.size, 3)
            return np.zeros(shape, dtype=np.uint8), {sample: error.reason}
        except (UserError, OSError) as error:
            return error
        return np.stack([resample_with_pil(image, cut, self.size, self.radius) for cut in cuts]), {}


def resample_with_pil(
    image: Image.Image, cut: NDArray[np.int32], size: int, radius: int = BICUBIC
) -> NDArray[np.uint8]:
    """Resample one cut of an RGB image with PIL: crop, resize the whole rectangle, crop the window.

    `cut` has the 8 columns of `crops.CUT`, `radius` is `crops.BICUBIC` or `BILINEAR`; the result is
    (size, size, 3) uint8.
    """
    top, left, height, width, full_height, full_width, window_top, window_left = map(int, cut)
    image = image.crop((left, top, left + width, top + height))
    kind = Image.Resampling.BICUBIC if radius == BICUBIC else Image.Resampling.BILINEAR
    image = image.resize((full_width, full_height), kind)
    window = (window_left, window_top, window_left + size, window_top + size)
    return np.asarray(image.crop(window))


def _concatenate(
    parts: list[tuple[NDArray[np.uint8], Reasons] | Exception],
) -> tuple[NDArray[np.uint8], Reasons] | Exception:
    for part in parts:
        if isinstance(part, Exception):
            return part
    images, reasons = zip(*parts, strict=True)
    return np.concatenate(images), {s: reason for each in reasons for s, reason in each.items()}
