"""CIFAR-10's files, small: the layout that torchvision reads, with as few images as one likes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = "airplane automobile bird cat deer dog frog horse ship truck".split()


def write_cifar10(root: Path, per_batch: int = 20) -> tuple[NDArray[np.uint8], list[int]]:
    """Write the five training batches, the test batch and the names of the classes.

    Args:
        root: the folder that torchvision calls `root`.
        per_batch: images in each of the six files.

    Returns:
        Pixels (N, 32, 32, 3) and labels of the training images; image i has number i in its name.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    total = 6 * per_batch
    pixels = rng.integers(0, 256, (total, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, total).tolist()
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        mine = range(number * per_batch, (number + 1) * per_batch)
        batch: dict[str, Any] = {
            "data": pixels[mine].transpose(0, 3, 1, 2).reshape(per_batch, 3072),
            "labels": [labels[n] for n in mine],
            "filenames": [f"{WORDS[labels[n]]}_s_{n:06d}.png" for n in mine],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": WORDS}, protocol=2))
    return pixels[: 5 * per_batch], labels[: 5 * per_batch]
