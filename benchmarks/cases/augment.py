"""`fastdeit bench augment`: operations, policies and the whole stage beside timm's on PIL."""

from __future__ import annotations

from typing import Annotated

import tyro

from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import (
    BATCH_SIZE,
    IMAGE_SIZE,
    Device,
    ImageSize,
    Out,
    Peers,
    Rounds,
    require_at_least,
)
from fastdeit.benchmarks.harness.run import measure_parts

PAPER = "rand-m9-mstd0.5-inc1"
"""The paper's policy."""


def augment(
    image_size: ImageSize = IMAGE_SIZE,
    batch_size: Annotated[int, tyro.conf.arg(help="images of a round.")] = BATCH_SIZE,
    device: Device = "auto",
    rounds: Rounds = 5,
    peers: Peers = True,
    out: Out = None,
) -> int:
    """Measure each operation, policies and the whole augmentation beside timm's on PIL.

    timm's runs on one core; ours on one core too, or on a GPU.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(1, rounds=rounds, batch_size=batch_size)
    require_at_least(16, image_size=image_size)
    part = augment_part("augment", batch_size, image_size, device, rounds, peers)
    return measure_parts([part], out, device)


def augment_part(
    name: str,
    num_images: int,
    image_size: int,
    device: str,
    rounds: int,
    has_peers: bool,
    is_brief: bool = False,
) -> Part:
    """The part that `measure_augment` does."""
    return Part(
        name=name,
        work="fastdeit.benchmarks.cases.augment_pairs:measure_augment",
        options={
            "num_images": num_images,
            "image_size": image_size,
            "device": device,
            "rounds": rounds,
            "has_peers": has_peers,
            "is_brief": is_brief,
        },
    )
