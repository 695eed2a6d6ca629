"""Datasets with images that do not decode."""

from __future__ import annotations

from pathlib import Path

from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.index import JPEG_MODE, DatasetIndex

CUT_OFF, NO_JPEG = "cut off", "no JPEG"


def with_bad_images(index: DatasetIndex, folder: Path, bad: dict[int, str]) -> Path:
    """A copy of a dataset in which some samples do not decode."""
    folder.mkdir(exist_ok=True)
    writer = BetonWriter(folder, len(index), int(index.sizes.max()))
    for sample in range(len(index)):
        data = index.read(sample)
        if sample in bad:
            data = data[: len(data) // 2] if bad[sample] == CUT_OFF else bytes(5000)
        writer.add(0, data, int(index.labels[sample]), JPEG_MODE)
    columns = index.columns()
    for name in ("file_ids", "offsets", "sizes"):  # which the writer knows
        del columns[name]
    classes = {"class_ids": list(index.class_ids), "class_names": list(index.class_names)}
    return writer.finish(classes, columns)
