"""NVIDIA DALI decodes, fed image by image in the order of the plan; the cuts are ours.

Each image of a step enters DALI once, however many copies the step shows. They are cut from what
DALI decoded by our own kernel, since DALI's cubic differs from PIL's by up to 12 levels. A CPU
pipeline: it needs no GPU. `dali_gpu_engine` is the one that decodes and resamples there.

What is shown is what PIL shows. DALI's decoder may end the process when an image does not decode:
one of its threads throws while others still read what the throwing one frees (DALI 2.4). It waits
for ever for what is too large, and makes other pixels of unusual files (an animated PNG, 16 bits).
So what is not a whole plain JPEG or PNG is decoded by PIL beforehand, and enters DALI as pixels.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import RAW_MODE, DatasetIndex, checksum
from fastdeit.pipelines.datasets.jpeg_head import read_jpeg_head
from fastdeit.pipelines.datasets.pictures import MAX_PIXELS
from fastdeit.pipelines.engines.bad_images import draw_with_pil
from fastdeit.pipelines.engines.decode import BadImageError, decode_with_pil
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions, Reasons, group_copies
from fastdeit.pipelines.engines.plain_files import is_plain_jpeg, is_plain_png
from fastdeit.pipelines.engines.resample import resample_cuts
from fastdeit.pipelines.plan.crops import crop_rule, plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

DEPTH = 2  # steps in flight
_END = b"\xff\xd9"
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
        self._pipe = self._build()
        self._only_pil: set[int] = set()
        """Samples that PIL decodes and DALI does not."""

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
        if sample not in self._only_pil and self._is_plain(sample, room):
            return room
        return _as_pnm(np.asarray(decode_with_pil(self.index, sample)))

    def _is_plain(self, sample: int, data: NDArray[np.uint8]) -> bool:
        """Whether DALI makes of the bytes of a sample what PIL does, if anything."""
        index = self.index
        width, height = int(index.widths[sample]), int(index.heights[sample])
        if width * height > MAX_PIXELS:
            return False
        if not is_plain_jpeg(data, width, height):
            return is_plain_png(data, width, height)
        if index.was_decoded and index.checksums is not None and _END in data[-8:].tobytes():
            # PIL decoded these bytes when they were converted.
            return checksum(data.data) == int(index.checksums[sample])
        head = read_jpeg_head(data.tobytes())
        return head is not None and not head.fault

    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        self._steps, self._fed = requests, deque()
        self._pipe = self._pipe or self._build()  # the last pass may have ended with a failure
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
        made = []
        for step, reasons in self._fed:
            images, places = self._host_images(len(step.samples)), np.arange(len(step.samples))
            for sample, found in draw_with_pil(self.plan, self.index, step, places, images):
                if isinstance(found, str):
                    reasons[sample] = found
            made.append((images, reasons))
        if not any(reasons for _, reasons in made):
            self._find_what_fails(error)
        yield from made

    def _find_what_fails(self, error: RuntimeError) -> None:
        """Find the images of the steps in flight that only DALI refuses, and spare it them.

        Raises DALI's error if there are none: it was not about an image.
        """
        steps = [step for step, _ in self._fed]
        before = len(self._only_pil)
        for step in steps:
            for sample, first, _ in group_copies(step):
                one = slice(first, first + 1)
                alone = replace(step, samples=step.samples[one], copies=step.copies[one])
                self._steps, self._fed = iter([alone]), deque()
                self._pipe = self._pipe or self._build()
                try:
                    self._pipe.run()
                    self._drain()
                except RuntimeError:
                    self._pipe = None
                    self._only_pil.add(sample)
        self._pipe = None
        if len(self._only_pil) == before:
            raise error

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
