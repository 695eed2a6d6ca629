"""NVIDIA DALI decodes, fed image by image in the order of the plan; the cuts are ours.

Each image of a step enters DALI once, however many copies the step shows. They are cut from what
DALI decoded by our own kernel, since DALI's cubic differs from PIL's by up to 12 levels. A CPU
pipeline: it needs no GPU. `dali_gpu_engine` is the one that decodes and resamples there.

DALI's decoder may end the process when an image does not decode: one of its threads throws while
others still read what the throwing one frees (DALI 2.4). So what does not look like a whole JPEG
or PNG is decoded by PIL beforehand, and enters DALI as pixels.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex
from fastdeit.pipelines.datasets.jpeg_head import read_jpeg_head
from fastdeit.pipelines.engines.decode import BadImageError, decode_with_pil
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions, Reasons, group_copies
from fastdeit.pipelines.engines.resample import resample_cuts
from fastdeit.pipelines.plan.crops import crop_rule, plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

DEPTH = 2  # steps in flight
ROOM_AT_THE_END = 32
"""How far from the end of an image its end marker may be."""

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
    _most_copies: int | None = None
    """How many copies one decoded image serves; None for any number."""

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        super().__init__(index, plan, options)
        self._steps: Iterator[StepPlan] = iter(())
        self._fed: deque[tuple[StepPlan, Reasons]] = deque()
        # Kept, since fresh memory for every step costs more than reading into it. DALI copies it.
        self._room = np.empty(0, dtype=np.uint8)
        # What we convert is checked then; from elsewhere every image is walked through.
        self._is_checked = index.checksums is not None
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

    def _next_encoded(self) -> tuple[StepPlan, list[NDArray[np.uint8]]]:
        """The step that DALI takes next, `DEPTH` steps ahead of us, and its images' bytes."""
        step = next(self._steps)
        reasons: Reasons = {}
        self._fed.append((step, reasons))
        samples = [sample for sample, _, _ in group_copies(step, self._most_copies)]
        ends = np.cumsum(self.index.sizes[samples])
        if ends[-1] > len(self._room):
            self._room = np.empty(ends[-1] * 5 // 4, dtype=np.uint8)
        encoded = []
        for sample, end in zip(samples, ends, strict=True):
            room = self._room[end - self.index.sizes[sample] : end]
            try:
                encoded.append(self._encoded(sample, room))
            except BadImageError as error:
                reasons[sample] = error.reason
                encoded.append(_as_pnm(np.zeros((1, 1, 3), dtype=np.uint8)))
        return step, encoded

    def _encoded(self, sample: int, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bytes of which DALI makes what PIL makes of the sample, read into `room`."""
        self.index.read_into(sample, room)
        if self.index.modes[sample] == RAW_MODE:
            return _as_pnm(room.reshape(self.index.heights[sample], self.index.widths[sample], 3))
        if looks_whole(room, self._is_checked):
            return room
        return _as_pnm(np.asarray(decode_with_pil(self.index, sample)))

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
                step, reasons = self._fed.popleft()
                yield self._finish(outputs, step), reasons
        finally:
            self._drain()

    def _without_dali(self, error: RuntimeError) -> Generator[tuple[Tensor, Reasons], None, None]:
        """Make the steps that were in flight by PIL, after a failure of DALI's."""
        self._pipe = None
        if not self._fed:
            raise error
        for step, reasons in self._fed:
            for sample in np.unique(step.samples).tolist():
                try:
                    decode_with_pil(self.index, sample)
                except BadImageError as bad:
                    reasons[sample] = bad.reason
            if not reasons and step is self._fed[-1][0]:
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
        return self._next_encoded()[1]

    def _finish(self, outputs: Any, step: StepPlan) -> Tensor:
        (decoded,) = outputs
        groups = group_copies(step)
        images = [decoded.at(number) for number in range(len(groups))]
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


def looks_whole(data: NDArray[np.uint8], is_checked: bool) -> bool:
    """Whether bytes begin and end as a JPEG or PNG should."""
    begin, end = data[:8].tobytes(), data[-ROOM_AT_THE_END:].tobytes()
    if begin[:3] == b"\xff\xd8\xff":
        if is_checked:
            return b"\xff\xd9" in end
        # Where the rest is not known to be in order.
        head = read_jpeg_head(data.tobytes())
        return head is not None and not head.fault
    return begin == b"\x89PNG\r\n\x1a\n" and b"IEND" in end


def _as_pnm(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels as a file that DALI decodes: a binary PNM."""
    height, width = pixels.shape[:2]
    head = np.frombuffer(f"P6\n{width} {height}\n255\n".encode(), dtype=np.uint8)
    return np.concatenate([head, pixels.reshape(-1)])


@pipeline_def
def _decoding_graph(source: Callable[[], list[NDArray[np.uint8]]]) -> Any:
    """Decode a batch of encoded images to (H, W, 3) uint8 each."""
    encoded = fn.external_source(source=source, ndim=1, dtype=types.UINT8)
    # PIL as DeiT uses it turns nothing by EXIF.
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
