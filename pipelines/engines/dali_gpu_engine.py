"""NVIDIA DALI decodes and resamples on the GPU, in the order and with the cuts of the plan.

Each image enters DALI once with the cuts of all its copies. Its pixels are not PIL's: nvJPEG
decodes a little differently, and DALI's resize differs by up to 12 levels where it is
cubic, and up to 22 where it is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray
from torch import Tensor

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.dali_engine import DEPTH, DaliEngine
from fastdeit.pipelines.engines.pipeline import PipelineOptions, group_copies
from fastdeit.pipelines.plan.crops import CUT, plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan


class DaliGpuPipeline(DaliEngine):
    """Decodes with DALI's mixed decoder, the GPU's JPEG engine included, and cuts with DALI."""

    def __init__(self, index: DatasetIndex, plan: Plan, options: PipelineOptions) -> None:
        """See `Pipeline`; UserError if the batches are not wanted on a GPU."""
        if options.device.type != "cuda":
            raise UserError(
                f"dali_device gpu needs a GPU. Found: device {options.device}. "
                "Pass --dali-device cpu."
            )
        number = options.device.index
        self._device = torch.device(
            "cuda", torch.cuda.current_device() if number is None else number
        )
        self._most_copies: int = plan.repeats if plan.is_training else 1
        super().__init__(index, plan, options)

    def _build(self) -> Any:
        return cutting_graph(
            self._next_input,
            "mixed",
            self._most_copies,
            self.plan.image_size,
            self.plan.interpolation,
            self.options.hw_decoder_load,
            batch_size=self.plan.max_local_batch,
            num_threads=self.threads,
            device_id=self._device.index,
            prefetch_queue_depth=DEPTH,
        )

    def _next_input(self) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int32]]]:
        step, encoded = self._next_encoded()
        cuts = plan_cuts(self.plan, self.index, step)
        return encoded, cuts_of_images(step, cuts, self._most_copies)

    def _finish(self, outputs: Any, step: StepPlan) -> Tensor:
        size = self.plan.image_size
        groups = group_copies(step, self._most_copies)
        shape = (self._most_copies, len(groups), size, size, 3)
        made = torch.empty(shape, dtype=torch.uint8, device=self._device)
        stream = torch.cuda.current_stream(self._device)
        for copy, output in enumerate(outputs):
            feed_ndarray(output.as_tensor(), made[copy], cuda_stream=stream)
        copies, numbers = places_of(groups)
        flat = torch.from_numpy(copies * len(groups) + numbers).pin_memory()
        return made.flatten(0, 1)[flat.to(self._device, non_blocking=True)]


def cuts_of_images(
    step: StepPlan, cuts: NDArray[np.int32], most_copies: int
) -> list[NDArray[np.int32]]:
    """For each image of a step the (most_copies, 8) cuts of its copies."""
    return [
        # An image with fewer copies has its first cut again.
        cuts[[first + (copy if copy < num else 0) for copy in range(most_copies)]]
        for _, first, num in group_copies(step, most_copies)
    ]


def places_of(groups: list[tuple[int, int, int]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each sample of a step is in DALI's output: (copies, images), each (b,)."""
    counts = [num for _, _, num in groups]
    copies = np.concatenate([np.arange(num) for num in counts])
    return copies, np.repeat(np.arange(len(groups)), counts)


@pipeline_def
def cutting_graph(
    source: Callable[[], Any],
    decoder: str,
    most_copies: int,
    size: int,
    interpolation: str,
    hw_decoder_load: float,
) -> Any:
    """Decode a batch of images once and cut every copy: `most_copies` outputs (S, S, 3) uint8."""
    encoded, cuts = fn.external_source(
        source=source, num_outputs=2, ndim=[1, 2], dtype=[types.UINT8, types.INT32]
    )
    decoded = fn.decoders.image(
        encoded,
        # "mixed" for the GPU; "cpu" does the same on the CPU.
        device=decoder,
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # as libjpeg does
        hw_decoder_load=hw_decoder_load,
    )
    kind = types.INTERP_CUBIC if interpolation == "bicubic" else types.INTERP_LINEAR
    outputs = []
    for copy in range(most_copies):
        top, height, full_height, window_top = (CUT.index(name) for name in ROWS_OF_CUT)
        rectangle = fn.slice(
            decoded,
            start=cuts[copy, top : top + 2],
            shape=cuts[copy, height : height + 2],
            axes=(0, 1),
            out_of_bounds_policy="pad",
        )
        full = fn.cast(cuts[copy, full_height : full_height + 2], dtype=types.FLOAT)
        resized = fn.resize(rectangle, size=full, interp_type=kind, antialias=True)
        start = cuts[copy, window_top : window_top + 2]
        outputs.append(fn.slice(resized, start=start, shape=(size, size), axes=(0, 1)))
    return tuple(outputs)


ROWS_OF_CUT = ("top", "height", "full_height", "window_top")
"""The fields of a cut for the rows; each stands before its column."""
