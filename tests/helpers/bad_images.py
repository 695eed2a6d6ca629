"""Datasets with images that do not decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.index import JPEG_MODE, DatasetIndex

CUT_OFF, NO_JPEG = "cut off", "no JPEG"
REMARKED = "a remark of libjpeg's, then an error"
KINDS = (CUT_OFF, NO_JPEG, REMARKED)


def _spoilt(data: bytes, kind: str) -> bytes:
    """A JPEG that does not decode any more."""
    if kind == CUT_OFF:
        return data[: len(data) // 2]
    if kind == NO_JPEG:
        return bytes(5000)
    tables = data.index(b"\xff\xc4")
    # Bytes that belong to nothing, and a code of one bit too many values.
    return data[:tables] + bytes(78) + data[tables : tables + 5] + b"\xff" + data[tables + 6 :]


def beton_of(images: list[tuple[bytes, int, int]], folder: Path) -> Path:
    """A .beton of some files, each with the width and height that the index tells of it."""
    folder.mkdir(exist_ok=True)
    writer = BetonWriter(folder, len(images))
    for key, (data, _, _) in enumerate(images):
        writer.add(key, data, 0, JPEG_MODE)
    sizes = np.array([size for _, *size in images], dtype=np.int32)
    columns = {
        "keys": np.arange(len(images), dtype=np.uint64),
        "labels": np.zeros(len(images), dtype=np.int64),
        "modes": np.full(len(images), JPEG_MODE, dtype=np.uint8),
        "widths": sizes[:, 0].copy(),
        "heights": sizes[:, 1].copy(),
    }
    return writer.finish({"class_ids": ["a"], "class_names": ["a"]}, columns)


def with_bad_images(index: DatasetIndex, folder: Path, bad: dict[int, str]) -> Path:
    """A copy of a dataset in which some samples do not decode."""
    folder.mkdir(exist_ok=True)
    writer = BetonWriter(folder, len(index), int(index.sizes.max()))
    for sample in range(len(index)):
        data = index.read(sample)
        if sample in bad:
            data = _spoilt(data, bad[sample])
        writer.add(0, data, int(index.labels[sample]), JPEG_MODE)
    columns = index.columns()
    for name in ("file_ids", "offsets", "sizes"):  # which the writer knows
        del columns[name]
    classes = {"class_ids": list(index.class_ids), "class_names": list(index.class_names)}
    return writer.finish(classes, columns)
