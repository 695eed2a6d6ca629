"""Names of images: millions of them in little memory, and those that ImageNet gave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

# n01440764_10026, and what Hugging Face's ILSVRC/imagenet-1k calls it: n01440764_10026_n01440764.
_TRAIN = re.compile(r"(?:.*/)?((n\d{8})_\d+)(?:_\2)?", re.ASCII)
_VAL = re.compile(r"(?:.*/)?(n\d{8})/(ILSVRC2012_val_\d{8})", re.ASCII)
_VAL_OF_HUB = re.compile(r"(?:.*/)?(ILSVRC2012_val_\d{8})_(n\d{8})", re.ASCII)

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The words that files and people use for the three splits."""


def imagenet_name(stem: str) -> str:
    """The path that an image has in ImageNet's folders, if the name it has elsewhere tells it.

    Of a path without its extension, such as n01440764_10026_n01440764:
    n01440764/n01440764_10026.JPEG; empty for other images.
    """
    if found := _TRAIN.fullmatch(stem):
        return f"{found[2]}/{found[1]}.JPEG"
    if found := _VAL.fullmatch(stem):
        return f"{found[1]}/{found[2]}.JPEG"
    if found := _VAL_OF_HUB.fullmatch(stem):
        return f"{found[2]}/{found[1]}.JPEG"
    return ""


class Names:
    """N strings, read by number. A list of 1.28 million would take 120 MB, this takes 45."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Wrap what `Names.of` made, or what a file holds.

        `text` (T,) is all names one after another, UTF-8; `ends` (N,) says where each ends in it.
        """
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Collect names; an iterator is never turned into a list."""
        text = bytearray()
        ends = bytearray()
        for name in names:
            text += name.encode()
            ends += len(text).to_bytes(8, "little")
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))

    def check(self) -> None:
        """Raise a ValueError if the ends are none of this text."""
        starts = np.concatenate([[0], self.ends])
        if self.text.ndim != 1 or (starts[1:] < starts[:-1]).any() or starts[-1] != len(self.text):
            raise ValueError("its names do not end where they should")

    def __len__(self) -> int:
        return len(self.ends)

    def encoded(self, number: int) -> bytes:
        """One name as UTF-8."""
        start = int(self.ends[number - 1]) if number else 0
        return self.text[start : int(self.ends[number])].tobytes()

    def __getitem__(self, number: int) -> str:
        return self.encoded(range(len(self))[number]).decode()

    def __iter__(self) -> Iterator[str]:
        return (self.encoded(number).decode() for number in range(len(self)))

    def take(self, order: NDArray[np.int64]) -> Names:
        """The names at some places, in that order."""
        return Names.of(self[int(number)] for number in order)
