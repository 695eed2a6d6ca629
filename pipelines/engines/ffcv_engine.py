"""FFCV's Loader reads and schedules; our decoder operation decodes once and cuts all copies.

Each entry of FFCV's batch indices is a sample number with its copy in the high bits, so the plan's
order goes through the Loader unchanged. The operation finds runs of one image, decodes it once per
run into scratch memory of its thread, and resamples every copy straight into memory of ours: FFCV's
own batches are views of a ring of buffers that it writes again (ffcv#231). What decides addresses
is our index, which was checked when it was opened, never FFCV's table.

What is shown is what PIL shows. libturbojpeg decodes what has a plain head, and counts only where
it has nothing to remark; for all else PIL is asked, image by image.

Labels do not go through FFCV: its integer decoder would take our packed indices for sample numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from queue import Empty
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError, keyed
from fastdeit.keyed import Purpose
from fastdeit.machine.numba_cache import compiled
from fastdeit.pipelines.datasets.beton import field_names
from fastdeit.pipelines.datasets.index import JPEG_MODE, RAW_MODE, DatasetIndex, FileState
from fastdeit.pipelines.datasets.pictures import MAX_PIXELS
from fastdeit.pipelines.engines.bad_images import draw_with_pil
from fastdeit.pipelines.engines.ffcv_library import (
    ACCURATE_DCT,
    DECOMPRESS_ADDRESS,
    RGB,
    EpochIterator,
    Loader,
    OrderOption,
    SimpleRGBImageDecoder,
    decode_by_turbo,
    free_decompressor,
    new_decompressor,
    nothing_compiled,
)
from fastdeit.pipelines.engines.pipeline import Pipeline, PipelineOptions, Reasons
from fastdeit.pipelines.engines.plain_files import is_plain_jpeg
from fastdeit.pipelines.engines.resample import resample_cut
from fastdeit.pipelines.plan.crops import CUT, absorb, crop_rule, fill_cut
from fastdeit.pipelines.plan.order import Plan, StepPlan

COPY_SHIFT = 40
SAMPLE_MASK = (1 << COPY_SHIFT) - 1
BATCHES_AHEAD = 2
CUT_FIELDS = len(CUT)
STALL_S = 0.5  # how often a waiting reader looks whether FFCV's thread is still alive
UNKNOWN, AS_PIL, NOT_AS_PIL = 0, 1, 2
"""What is known of an image whose head is not plain: whether libturbojpeg makes of it what PIL
makes."""


class FfcvPipeline(Pipeline):
    """Reads a .beton through FFCV's Loader."""

    name = "ffcv"

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """See `Pipeline`; UserError if the dataset is no .beton."""
        super().__init__(index, plan, options)
        if index.container != "beton":
            raise UserError(
                f"engine ffcv reads .beton files only. Found: {index.path}. "
                "Convert it with `fastdeit convert SOURCE OUT.beton`, or pass --engine dali or pil."
            )
        # numba cannot start more threads than it found cores for (ffcv#357).
        self.threads = min(self.threads, int(numba.config.NUMBA_NUM_THREADS))
        self._decoder = _PlanDecoder(index, plan, self.threads)
        self._file = _WatchedFile(index)
        image, label = field_names(index.path)
        with nothing_compiled():
            self._loader = Loader(
                str(index.path),
                batch_size=plan.max_local_batch,
                num_workers=self.threads,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                pipelines={image: [self._decoder], label: None},
                drop_last=False,
                batches_ahead=BATCHES_AHEAD,
            )
        with self._loader.memory_manager.schedule_epoch(None):
            pass  # maps the file now, while it is the one that was looked at

    def _images(
        self, requests: Iterator[StepPlan]
    ) -> Generator[tuple[Tensor, Reasons], None, None]:
        epoch = _PlannedEpoch(
            self._loader, self._decoder, self._while_whole(requests), self._host_images
        )
        try:
            for step, images, is_left in epoch:
                yield images, self._ask_pil(step, images, np.flatnonzero(is_left))
        finally:
            epoch.stop()

    def _while_whole(self, requests: Iterator[StepPlan]) -> Iterator[StepPlan]:
        """Look at the file before each step: reading mapped pages that are gone ends the process.

        A file that is cut within a step may still do so.
        """
        for request in requests:
            self._file.check()
            yield request

    def _ask_pil(self, step: StepPlan, images: Tensor, places: NDArray[np.intp]) -> Reasons:
        """Draw by PIL what was left to it, at some places of a step."""
        known = self._decoder.known
        reasons: Reasons = {}
        if not len(places):
            return reasons
        for sample, found in draw_with_pil(self.plan, self.index, step, places, images):
            if isinstance(found, str):
                reasons[sample] = found
                known[sample] = NOT_AS_PIL
            elif known[sample] == UNKNOWN:
                other = decode_by_turbo(self.index.read(sample), found.shape[1], found.shape[0])
                is_same = other is not None and np.array_equal(found, other)
                known[sample] = AS_PIL if is_same else NOT_AS_PIL
        return reasons

    def close(self) -> None:
        """Free the decoders, their memory and the file."""
        super().close()
        self._decoder.close()
        self._file.close()


class _WatchedFile:
    """The file that is mapped: it may be replaced, but not become shorter."""

    def __init__(self, index: DatasetIndex) -> None:
        self._path = index.path
        self._handle = os.open(index.path, os.O_RDONLY | os.O_CLOEXEC)
        self._state = FileState.of(os.fstat(self._handle))
        for state in index.states:
            state.check(self._handle, self._path)

    def check(self) -> None:
        self._state.check(self._handle, self._path)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _PlannedEpoch(EpochIterator):
    """FFCV's thread, with given batches, errors that arrive, and an end that is waited for."""

    def __init__(
        self,
        loader: Loader,
        decoder: _PlanDecoder,
        requests: Iterable[StepPlan],
        make_images: Callable[[int], Tensor],
    ) -> None:
        # FFCV's own leaves its reader waiting for ever when its thread fails, and leaks the thread
        # when the reader leaves early (ffcv#345, ffcv#393).
        self._decoder = decoder
        self._make_images = make_images
        self._stop_asked = False
        self._failure: BaseException | None = None
        self._taken = self._until_stopped(requests)
        super().__init__(loader, np.empty(0, dtype=np.int64))

    @property
    def iter_ixes(self) -> Iterator[StepPlan]:
        """The batches that FFCV's thread takes."""
        return self._taken

    @iter_ixes.setter
    def iter_ixes(self, value: Iterator[Any]) -> None:
        """Ignore FFCV's own division of its order."""

    def _until_stopped(self, requests: Iterable[StepPlan]) -> Iterator[StepPlan]:
        for request in requests:
            if self._stop_asked:
                return
            yield request

    def run_pipeline(
        self, number: int, request: StepPlan, *slot: Any
    ) -> tuple[StepPlan, Tensor, NDArray[np.uint8]]:
        """Make a batch, in memory that nobody writes to again; beside it, what is left to PIL."""
        images = self._make_images(len(request.samples))
        is_left = np.zeros(len(request.samples), dtype=np.uint8)
        self._decoder.begin(request.epoch, images, is_left)
        super().run_pipeline(number, request.samples | (request.copies << COPY_SHIFT), *slot)
        return request, images, is_left

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self._failure = error

    def __next__(self) -> Any:
        while True:
            was_alive = self.is_alive()  # asked first: it may end right after its last batch
            try:
                result = self.output_queue.get(timeout=STALL_S if was_alive else 0)
            except Empty:
                if was_alive:
                    continue
                raise self._failure or RuntimeError("FFCV's thread ended early") from None
            if result is None:
                raise StopIteration
            return result[1]

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop_asked = True
        self.terminate_event.set()
        while self.is_alive():
            try:
                self.output_queue.get_nowait()
            except Empty:
                time.sleep(0.001)
        self.close()


class _PlanDecoder(SimpleRGBImageDecoder):
    """FFCV operation: decode each run of one image once, cut every copy."""

    def __init__(self, index: DatasetIndex, plan: Plan, threads: int) -> None:
        super().__init__()
        self.index, self.plan = index, plan
        self._rule = crop_rule(plan)
        pixels = index.widths.astype(np.int64) * index.heights
        is_jpeg = (index.modes == JPEG_MODE) & (pixels <= MAX_PIXELS)
        # Only what is written to takes memory: one huge image costs its size once a thread.
        largest = int(pixels[is_jpeg].max(initial=0)) * 3
        self._scratch = np.empty((threads, largest), dtype=np.uint8)
        self.known = np.where(is_jpeg, UNKNOWN, NOT_AS_PIL).astype(np.uint8)
        """(N,) what was found out about JPEGs that are not plain."""
        self._handles = np.array([new_decompressor() for _ in range(threads)], dtype=np.uint64)
        self._keys = np.ascontiguousarray(plan.keys)
        self._columns = tuple(
            np.ascontiguousarray(column)
            for column in (index.offsets, index.sizes, index.modes, index.heights, index.widths)
        )

    def begin(self, epoch: int, images: Tensor, is_left: NDArray[np.uint8]) -> None:
        """Draw the crops of this epoch into these images, until the next call.

        In `is_left`, (b,), 1 is set for the places that are left to PIL.
        """
        self._epoch_state = keyed.epoch_state(self.plan.seed, Purpose.CROP, epoch)
        self._images, self._is_left = images.numpy(), is_left

    def close(self) -> None:
        """Free the decompressors."""
        for handle in self._handles:
            free_decompressor(int(handle))
        self._handles = np.zeros(0, dtype=np.uint64)

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        """Tell FFCV that what it gets is not the images, and needs no memory."""
        return replace(previous_state, jit_mode=True, shape=(), dtype=np.dtype("<i8")), None

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV calls for every batch."""

        def decode(batch_indices: Any, _memory: Any, _metadata: Any, storage_state: Any) -> Any:
            _decode_batch(
                DECOMPRESS_ADDRESS,
                storage_state[0],
                self._columns,
                self._keys,
                batch_indices,
                self._epoch_state,
                self._rule,
                self._handles,
                self._scratch,
                self.known,
                self._is_left,
                self._images,
            )
            return batch_indices

        return decode


@intrinsic
def _decompress(
    typing_context: Any,  # noqa: ARG001 - numba's signature
    address: Any,  # noqa: ARG001
    handle: Any,  # noqa: ARG001
    data: Any,  # noqa: ARG001
    size: Any,  # noqa: ARG001
    pixels: Any,  # noqa: ARG001
    width: Any,  # noqa: ARG001
    height: Any,  # noqa: ARG001
) -> Any:
    """Call `decompress` by its address: numba keeps no code that names a function of ctypes."""
    word, number = types.uint64, types.int32

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        address, handle, data, size, pixels, width, height = args
        int64, int32 = ir.IntType(64), ir.IntType(32)
        function = ir.FunctionType(int32, [int64] * 4 + [int32] * 5)
        pitch, layout, how = int32(0), int32(RGB), int32(ACCURATE_DCT)
        return builder.call(
            builder.inttoptr(address, function.as_pointer()),
            [handle, data, size, pixels, width, pitch, height, layout, how],
        )

    return number(word, word, word, word, word, number, number), generate


@compiled(parallel=True)
def _decode_batch(
    decompress_address: Any,
    file: Any,
    columns: Any,
    keys: Any,
    packed: Any,
    epoch_state: Any,
    rule: Any,
    handles: Any,
    scratch: Any,
    known: Any,
    is_left: Any,
    images: Any,
) -> None:
    """Decode each run of one image once, and cut every copy into `images`, (B, S, S, 3) uint8."""
    # `file` is the mapped .beton, `columns` are (N,) of its index. `packed`, (B,) int64, are sample
    # numbers with the copy above `COPY_SHIFT`. `scratch`, (lanes, bytes) uint8, is room for a
    # decoded image. Nothing in the loop may raise: an error in a parallel one is lost.
    offsets, sizes, modes, heights, widths = columns
    count = len(packed)
    starts = np.empty(count + 1, dtype=np.int64)
    num_runs = 0
    for i in range(count):
        if i == 0 or (packed[i] ^ packed[i - 1]) & SAMPLE_MASK:
            starts[num_runs] = i
            num_runs += 1
    starts[num_runs] = count

    # A lane, not numba's thread id, owns scratch memory and a decompressor: the threading layers
    # number threads in ways of their own, TBB beyond the number asked for.
    lanes = len(handles)
    for lane in numba.prange(lanes):
        for run in range(lane, num_runs, lanes):
            sample = packed[starts[run]] & SAMPLE_MASK
            height, width = np.int64(heights[sample]), np.int64(widths[sample])
            data = file[offsets[sample] : offsets[sample] + sizes[sample]]
            is_made = data.size == sizes[sample]
            if modes[sample] == RAW_MODE:
                pixels = data
            else:
                pixels = scratch[lane, : height * width * 3]
                is_made = (
                    is_made
                    and known[sample] != NOT_AS_PIL
                    and (known[sample] == AS_PIL or is_plain_jpeg(data, width, height))
                    and not _decompress(
                        decompress_address,
                        handles[lane],
                        np.uint64(data.ctypes.data),
                        np.uint64(data.size),
                        np.uint64(pixels.ctypes.data),
                        np.int32(width),
                        np.int32(height),
                    )
                )
            if not is_made:
                is_left[starts[run] : starts[run + 1]] = 1
                continue
            image = pixels.reshape(height, width, 3)
            cut = np.empty(CUT_FIELDS, dtype=np.int32)
            for i in range(starts[run], starts[run + 1]):
                copy = np.uint64(packed[i] >> COPY_SHIFT)
                state = absorb(absorb(epoch_state, keys[sample]), copy)
                fill_cut(rule, state, height, width, cut)
                resample_cut(image, rule.radius, cut, images[i])
