"""`fastdeit bench augment`: operations, policies and the whole stage beside timm's on PIL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import (
    BATCH_SIZE,
    IMAGE_SIZE,
    Device,
    ImageSize,
    Numbers,
    Out,
    Peers,
    Rounds,
)
from fastdeit.benchmarks.harness.run import measure_parts

PAPER = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentOptions(Numbers):
    """What `augment` may be asked for."""

    image_size: ImageSize = IMAGE_SIZE
    batch_size: int = BATCH_SIZE
    """images of a round."""
    device: Device = "auto"
    rounds: Rounds = 5
    peers: Peers = True
    out: Out = None

    def part(self, name: str = "augment", is_brief: bool = False) -> Part:
        """All of it, or only the paper's policy and the whole stage."""
        work = "fastdeit.benchmarks.cases.augment_pairs:measure_augment"
        return Part(name=name, work=work, options={"asked": self, "is_brief": is_brief})


def augment(asked: Annotated[AugmentOptions, tyro.conf.arg(name="")] = AugmentOptions()) -> int:
    """Measure each operation, policies and the whole augmentation beside timm's on PIL.

    timm's runs on one core; ours on one core too, or on a GPU.
    """
    return measure_parts([asked.part()], asked.out, asked.device)
