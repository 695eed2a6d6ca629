"""What is shown in place of images that do not decode."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdeit import UserError
from fastdeit.machine.distributed import World
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.decode import BadImageError, decode_with_pil
from fastdeit.pipelines.engines.resample import resample_cut
from fastdeit.pipelines.plan.crops import crop_rule, plan_cuts
from fastdeit.pipelines.plan.order import Plan, StepPlan

log = logging.getLogger(__name__)


class Replacements:
    """Which samples are shown in place of those that do not decode.

    The neighbour is the next image in the order of the keys that does decode: the same whatever
    the container, the engine and the number of processes. It is shown as itself, with its own
    label and key.
    """

    def __init__(self, index: DatasetIndex) -> None:
        self.index = index
        self.by_sample: dict[int, int] = {}
        """Each sample found not to decode, with the one that is shown instead."""
        self.num_shown = 0
        """How often one was shown instead, copies counted."""

    def apply(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples with the neighbours of those that are known not to decode: the same shape."""
        known = list(self.by_sample.items())  # at once: another thread may add to it
        if not known:
            return samples
        changed: NDArray[np.int64] = samples.copy()
        for sample, neighbour in known:
            changed[samples == sample] = neighbour
        return changed

    def count(self, samples: NDArray[np.int64]) -> None:
        """Count which of the samples of a step are shown by their neighbours."""
        if self.by_sample:
            self.num_shown += int(np.isin(samples, list(self.by_sample)).sum())

    def num_samples(self, world: World) -> int:
        """How many samples are replaced, in all processes together; all ask at the same time."""
        # Two processes may have met the same one, as the neighbour of another.
        return len(set().union(*world.gather(set(self.by_sample))))

    def add(self, sample: int, reason: str) -> None:
        """Find and log the neighbour of a sample that does not decode; UserError if none does."""
        if sample in self.by_sample:  # it was tried as somebody's neighbour
            return
        bad = {sample: reason}
        order = np.argsort(self.index.keys, kind="stable")
        place = int(np.flatnonzero(order == sample)[0])
        while True:
            place = (place + 1) % len(order)
            neighbour = int(order[place])
            if neighbour in bad:
                raise UserError(
                    f"a dataset must hold an image that decodes. Found: none in {self.index.path}. "
                    "Convert the source again."
                )
            if neighbour in self.by_sample:
                continue
            try:
                decode_with_pil(self.index, neighbour)
                break
            except BadImageError as error:
                bad[neighbour] = error.reason
        for each, why in bad.items():
            self.by_sample[each] = neighbour
            log.warning(
                "an image does not decode. Found: %s (%s). Shown in its place: sample %d.",
                self.index.describe(each),
                why,
                neighbour,
            )
        for each, shown in list(self.by_sample.items()):
            if shown in bad:
                self.by_sample[each] = neighbour

    def draw(self, plan: Plan, step: StepPlan, places: NDArray[np.intp], images: Tensor) -> None:
        """Draw some samples of a step, by PIL, into its (b, S, S, 3) uint8 images."""
        for sample, drawn in draw_with_pil(plan, self.index, step, places, images):
            if isinstance(drawn, str):
                raise BadImageError(self.index, sample, drawn)


def draw_with_pil(
    plan: Plan, index: DatasetIndex, step: StepPlan, places: NDArray[np.intp], images: Tensor
) -> Iterator[tuple[int, NDArray[np.uint8] | str]]:
    """Draw some samples of a step into its (b, S, S, 3) uint8 images; each is decoded once.

    Yields each sample's number with its pixels, (H, W, 3) uint8, or why it does not decode.
    """
    cuts, radius = plan_cuts(plan, index, step), crop_rule(plan).radius
    for sample in np.unique(step.samples[places]).tolist():
        try:
            pixels = np.array(decode_with_pil(index, sample))
        except BadImageError as error:
            yield sample, error.reason
            continue
        for place in places[step.samples[places] == sample]:
            drawn = np.empty(images.shape[1:], dtype=np.uint8)
            resample_cut(pixels, radius, cuts[place], drawn)
            images[place] = torch.from_numpy(drawn).to(images.device)
        yield sample, pixels
