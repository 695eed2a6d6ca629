"""NVIDIA DALI decodes, fed image by image in the order of the plan; the cuts are ours.

Each image of a step enters DALI once, however many copies the step shows. They are cut from what
DALI decoded by our own kernel, since DALI's cubic differs from PIL's by up to 12 levels. A CPU
pipeline: it needs no GPU. `dali_gpu_engine` is the one that decodes and resamples there.
"""

from __future__ import annotations

import contextlib
import io
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdeit import UserError
from fastdeit.pipelines.crops import crop_rule, plan_cuts
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex
from fastdeit.pipelines.decode import BadImageError, decode_with_pil
from fastdeit.pipelines.pipeline import Pipeline, PipelineOptions, Reasons, group_copies
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


class DaliEngine(Pipeline):
    """What decoding on the CPU and on the GPU share: feeding DALI, and its failures."""

    name = "dali"

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """See `Pipeline`."""
        super().__init__(index, plan, options)
        self._steps: Iterator[StepPlan] = iter(())
        self._fed: deque[StepPlan] = deque()
        self._pipe = self._build()

    @abstractmethod
    def _build(self) -> Any:
        """A DALI pipeline that takes its input from `_next_input`."""

    @abstractmethod
    def _next_input(self) -> Any:
        """The next step as DALI takes it; raises StopIteration after the last."""

    @abstractmethod
    def _finish(self, outputs: Any, step: StepPlan) -> Tensor:
        """Make (b, S, S, 3) uint8 of what DALI gives for a step."""

    def _next_step(self) -> StepPlan:
        """The step that DALI takes next; it works `DEPTH` steps ahead of us."""
        step = next(self._steps)
        self._fed.append(step)
        return step

    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        self._steps, self._fed = requests, deque()
        try:
            while True:
                try:
                    outputs = self._pipe.run()
                except StopIteration:
                    return
                except RuntimeError as error:
                    # DALI does not say which image it was, and takes no more after it.
                    yield from self._without_dali(error)
                    self._steps, self._fed, self._pipe = requests, deque(), self._build()
                    continue
                yield self._finish(outputs, self._fed.popleft()), {}
        finally:
            self._drain()

    def _without_dali(self, error: RuntimeError) -> Generator[tuple[Tensor, Reasons], None, None]:
        """Make the steps that were in flight by PIL, after a failure of DALI's."""
        self._pipe = None
        for step in self._fed:
            reasons = {}
            for sample in np.unique(step.samples).tolist():
                try:
                    decode_with_pil(self.index, sample)
                except BadImageError as bad:
                    reasons[sample] = bad.reason
            if not reasons and step is self._fed[-1]:
                raise error
            images = self._host_images(len(step.samples))
            good = np.flatnonzero(~np.isin(step.samples, list(reasons)))
            self.replacements.draw(self.plan, step, good, images)
            yield images, reasons

    def _drain(self) -> None:
        """Let what is in flight leave before DALI takes other steps."""
        self._steps = iter(())
        if self._pipe is not None:
            with contextlib.suppress(StopIteration, RuntimeError):
                while True:
                    self._pipe.run()
            self._pipe.reset()

    def close(self) -> None:
        """Free DALI's threads and buffers."""
        super().close()
        self._pipe = None


class DaliPipeline(DaliEngine):
    """Decodes with DALI's CPU operators and cuts with our kernel."""

    def _build(self) -> Any:
        return _decoding_graph(
            self._next_input,
            batch_size=self.plan.max_local_batch,
            num_threads=self.threads,
            device_id=None,
            prefetch_queue_depth=DEPTH,
        )

    def _next_input(self) -> list[NDArray[np.uint8]]:
        return [
            _NOTHING
            if self.index.modes[sample] == RAW_MODE
            else np.frombuffer(self.index.read(sample), dtype=np.uint8)
            for sample, _, _ in group_copies(self._next_step())
        ]

    def _finish(self, outputs: Any, step: StepPlan) -> Tensor:
        (decoded,) = outputs
        groups = group_copies(step)
        images = [
            self._raw(sample) if self.index.modes[sample] == RAW_MODE else decoded.at(number)
            for number, (sample, _, _) in enumerate(groups)
        ]
        out = self._host_images(len(step.samples))
        resample_cuts(
            np.array([image.ctypes.data for image in images]),
            np.array([image.shape[0] for image in images]),
            np.array([image.shape[1] for image in images]),
            np.repeat(np.arange(len(groups)), [num for _, _, num in groups]),
            crop_rule(self.plan).radius,
            plan_cuts(self.plan, self.index, step),
            out.numpy(),
        )
        return out

    def _raw(self, sample: int) -> NDArray[np.uint8]:
        """A raw image, which needs no decoding: (H, W, 3) uint8."""
        shape = (int(self.index.heights[sample]), int(self.index.widths[sample]), 3)
        return np.frombuffer(self.index.read(sample), dtype=np.uint8).reshape(shape)


def _encoded_dot() -> NDArray[np.uint8]:
    """A JPEG of one pixel: DALI decodes it where an image needs no decoding."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "jpeg")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


_NOTHING = _encoded_dot()


@pipeline_def
def _decoding_graph(source: Callable[[], list[NDArray[np.uint8]]]) -> Any:
    """Decode a batch of encoded images to (H, W, 3) uint8 each."""
    encoded = fn.external_source(source=source, ndim=1, dtype=types.UINT8)
    # PIL as DeiT uses it turns nothing by EXIF.
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
