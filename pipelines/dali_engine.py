"""NVIDIA DALI decodes, fed image by image in the order of the plan; the cuts are ours.

Each image of a step enters DALI once, however many copies the step shows. They are cut from what
DALI decoded by our own kernel, since DALI's cubic differs from PIL's by up to 12 levels. A CPU
pipeline: it needs no GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.pipelines.crops import plan_cuts
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex
from fastdeit.pipelines.decode import decode_with_pil
from fastdeit.pipelines.pipeline import Pipeline, group_copies, pin_if_useful
from fastdeit.pipelines.plan import Plan, StepPlan
from fastdeit.pipelines.resample import resample_cuts

DEPTH = 2  # steps in flight

try:
    from nvidia.dali import fn, pipeline_def, types
except ImportError as error:
    raise UserError(
        f"engine dali needs NVIDIA DALI. Found: {error}. "
        "Install it with pip install 'fastdeit[dali]', or pass --engine pil."
    ) from error


class DaliPipeline(Pipeline):
    """Decodes with DALI's CPU operators."""

    name = "dali"

    def __init__(self, index: DatasetIndex, plan: Plan, threads: int = 0) -> None:
        """See `Pipeline`.

        Raises:
            UserError: the dataset holds raw images, which DALI's decoder does not read.
        """
        super().__init__(index, plan, threads)
        if (index.modes == RAW_MODE).any():
            raise UserError(
                f"engine dali reads encoded images. Found: raw ones in {index.path}. "
                "Pass --engine ffcv."
            )
        self._steps: Iterator[StepPlan] = iter(())
        self._pipe = _dali_graph(
            self._next_encoded,
            batch_size=plan.max_local_batch,
            num_threads=self.threads,
            device_id=None,
            prefetch_queue_depth=DEPTH,
        )

    def _images(self, epoch: int, first_step: int) -> Generator[Tensor, None, None]:
        self._steps = self.plan.steps(epoch, first_step)
        try:
            for step in self.plan.steps(epoch, first_step):
                try:
                    (decoded,) = self._pipe.run()
                except RuntimeError:
                    for sample in np.unique(step.samples):
                        decode_with_pil(self.index, int(sample))
                    raise
                yield pin_if_useful(self._resample(decoded, step), copy=False)
        finally:
            # What is in flight must leave before DALI takes other steps.
            self._steps = iter(())
            with contextlib.suppress(StopIteration, RuntimeError):
                while True:
                    self._pipe.run()
            self._pipe.reset()

    def _next_encoded(self) -> list[NDArray[np.uint8]]:
        """The bytes of the next step's images; DALI works `DEPTH` steps ahead of us."""
        step = next(self._steps)
        return [
            np.frombuffer(self.index.read(sample), dtype=np.uint8)
            for sample, _, _ in group_copies(step)
        ]

    def _resample(self, decoded: Any, step: StepPlan) -> NDArray[np.uint8]:
        """Cut every copy from its decoded image: (b, S, S, 3) uint8."""
        size, groups = self.plan.image_size, group_copies(step)
        images = [decoded.at(number) for number in range(len(groups))]
        out = np.empty((len(step.samples), size, size, 3), dtype=np.uint8)
        resample_cuts(
            np.array([image.ctypes.data for image in images]),
            np.array([image.shape[0] for image in images]),
            np.array([image.shape[1] for image in images]),
            np.repeat(np.arange(len(groups)), [num for _, _, num in groups]),
            plan_cuts(self.plan, self.index, step),
            out,
        )
        return out

    def close(self) -> None:
        """Free DALI's threads and buffers."""
        super().close()
        self._pipe = None


@pipeline_def
def _dali_graph(source: Callable[[], list[NDArray[np.uint8]]]) -> Any:
    """Decode a batch of encoded images to (H, W, 3) uint8 each."""
    encoded = fn.external_source(source=source, ndim=1, dtype=types.UINT8)
    # PIL as DeiT uses it turns nothing by EXIF.
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
