"""Parquet files as Hugging Face stores image classification: a row an image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import MAX_CLASSES
from fastdeit.pipelines.datasets.names import SPLITS, Names
from fastdeit.tools.data.sources.imagenet_names import find_wordnet_ids, name_images
from fastdeit.tools.data.sources.listing import Listing, fingerprint_of, times_of
from fastdeit.tools.data.sources.parquet_rows import (
    ParquetRows,
    damaged,
    load_pyarrow,
    open_parquet,
)
from fastdeit.tools.data.sources.parquet_schema import Columns, find_columns

SCAN_ROWS = 65_536
SPLIT_OF_NAME = re.compile(rf"({'|'.join(SPLITS)})(?=[-_.])", re.IGNORECASE)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=[-.])")


def list_parquet(path: Path, split: str | None = None) -> Listing:
    """List the images of Parquet files, without reading them.

    `path` is a .parquet file, or a folder of them, in it or in its `data/`; `split` is train, val
    (or validation) or test, where a folder holds several. Sizes are estimates, a mean for each row
    group: Parquet keeps no size of a value, and to find them all would mean to read everything.
    Raises UserError if there are no such files, the split is not clear, they are damaged or
    incomplete, their columns are not an image and a label, labels are missing, or pyarrow is.
    """
    load_pyarrow()
    files = _choose_files(path, split)
    scan = Scan(files)
    paths = Names.of(scan.paths())
    if not len(paths):
        raise UserError(f"source must hold images. Found: no rows in {path}. Download it again.")
    labels = np.concatenate(scan.labels)
    columns = scan.columns[0]
    num_classes = max(int(labels.max()) + 1, len(columns.class_names))
    if columns.class_names and num_classes > len(columns.class_names):
        raise UserError(
            f"labels must be below the number of classes ({len(columns.class_names)}). "
            f"Found: {int(labels.max())} in {path}. Download it again."
        )
    ends = np.cumsum(np.array(scan.group_rows, np.int64))
    requests = ParquetRows(
        [str(file) for file in files],
        columns.image,
        columns.leaf,
        np.array(scan.group_files, np.int64),
        np.array(scan.groups, np.int64),
        ends,
    )
    wordnet_ids = find_wordnet_ids(paths, labels, num_classes)
    names = name_images(paths, labels, wordnet_ids, RowNames(files, scan.file_rows))
    sizes = np.repeat(np.array(scan.group_sizes, np.int64), np.diff(ends, prepend=0))
    return Listing(
        path=path,
        kind="parquet",
        names=names,
        labels=labels,
        sizes=sizes,
        class_ids=[each or str(number) for number, each in enumerate(wordnet_ids)],
        class_names=list(columns.class_names) or [str(number) for number in range(num_classes)],
        requests=requests,
        fingerprint=fingerprint_of(names, sizes, labels),
        times=times_of(files, np.repeat(requests.file_ids, np.diff(ends, prepend=0))),
        is_sequential=True,
    )


class RowNames:
    """Names for rows that have none: FILE/row000000123, counted in the file."""

    def __init__(self, files: list[Path], file_rows: list[int]) -> None:
        self.files = files
        self.ends = np.cumsum(np.array(file_rows, np.int64))

    def __call__(self, number: int) -> str:
        """The name of the row with a number among all rows."""
        file = int(np.searchsorted(self.ends, number, side="right"))
        row = number - (int(self.ends[file - 1]) if file else 0)
        return f"{self.files[file].name}/row{row:09d}"


@dataclass
class Scan:
    """What one pass over the columns of labels and paths finds."""

    files: list[Path]
    columns: list[Columns] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    file_rows: list[int] = field(default_factory=list)
    group_files: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    group_rows: list[int] = field(default_factory=list)
    group_sizes: list[int] = field(default_factory=list)

    def paths(self) -> Iterator[str]:
        """Yield the path that each row gives its image, "" for none, and collect all else."""
        for number, file in enumerate(self.files):
            parquet = open_parquet(str(file))
            columns = find_columns(parquet.schema_arrow, file)
            self.columns.append(columns)
            if columns != self.columns[0]:
                raise UserError(
                    "the files of a split must have the same columns and classes. "
                    f"Found: {self.files[0].name} and {file.name} differ. Convert them apart."
                )
            self.add_groups(number, parquet.metadata, columns.leaf)
            try:
                yield from self.read_rows(parquet, columns, file)
            except (OSError, ValueError, RuntimeError) as error:
                raise damaged(str(file), error) from error

    def add_groups(self, number: int, metadata: Any, leaf: str) -> None:
        """Note the row groups of a file, with the mean size of their images."""
        self.file_rows.append(metadata.num_rows)
        for group in range(metadata.num_row_groups):
            content = metadata.row_group(group)
            chunks = [content.column(column) for column in range(content.num_columns)]
            (num_bytes,) = (c.total_uncompressed_size for c in chunks if c.path_in_schema == leaf)
            if content.num_rows:
                self.group_files.append(number)
                self.groups.append(group)
                self.group_rows.append(content.num_rows)
                self.group_sizes.append(num_bytes // content.num_rows)

    def read_rows(self, parquet: Any, columns: Columns, file: Path) -> Iterator[str]:
        """Yield the paths of a file's rows and collect their labels."""
        leaves = [columns.label, *([columns.path_leaf] if columns.path_leaf else [])]
        for batch in parquet.iter_batches(SCAN_ROWS, columns=leaves, use_threads=False):
            column = batch.column(columns.label)
            labels = column.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
            if labels.max(initial=0) >= MAX_CLASSES:
                raise UserError(
                    f"labels must be numbers of classes, below {MAX_CLASSES}. Found: "
                    f"{labels.max()} in {file}. Write them anew, counted from 0."
                )
            if len(labels) != len(column) or (labels < 0).any():
                found = f"label {labels.min()}" if len(labels) == len(column) else "null"
                raise UserError(
                    f"every image must have a label from 0. Found: {found} in {file}. "
                    "Convert another split: ImageNet's test images have no labels."
                )
            self.labels.append(labels)
            if columns.path_leaf:
                # flatten, not field: a null struct makes its fields null.
                (paths,) = batch.column(columns.image).flatten()
                yield from (path or "" for path in paths.to_pylist())
            else:
                yield from ("" for _ in range(len(column)))


def _choose_files(path: Path, split: str | None) -> list[Path]:
    wanted = SPLITS.get(split.lower(), split) if split else None
    found: dict[str, list[Path]] = {}
    for file in find_files(path):
        match = SPLIT_OF_NAME.match(file.name)
        found.setdefault(SPLITS[match[1].lower()] if match else "", []).append(file)
    known = ", ".join(sorted(name or "files that name none" for name in found))
    if wanted is None and len(found) > 1:
        raise UserError(
            f"source must be one split. Found: {known} in {path}. "
            f"Pass --split {min(filter(None, found))}, say."
        )
    if wanted is not None and wanted not in found:
        raise UserError(
            f"split must be one that the names of the files begin with. Found: {split}, and in "
            f"{path}: {known}. {'Leave --split out' if '' in found else 'Choose one of these'}."
        )
    files = found[wanted] if wanted is not None else next(iter(found.values()))
    if path.is_dir():
        _check_shards(files)
    return files


def looks_like_parquet(path: Path) -> bool:
    """Whether `list_parquet` is for this path."""
    if path.is_file():
        return path.suffix == ".parquet"
    return any(next(folder.glob("[!.]*.parquet"), None) for folder in (path, path / "data"))


def find_files(path: Path) -> list[Path]:
    """The Parquet files at a path, sorted; UserError if there are none."""
    if path.is_file():
        return [path]
    for folder in (path, path / "data"):
        if files := sorted(file for file in folder.glob("[!.]*.parquet") if file.is_file()):
            return files
    raise UserError(
        f"source must be a .parquet file, or a folder with some in it or in data/. Found: "
        f"{'none in' if path.is_dir() else 'nothing at'} {path}. Give the folder that holds "
        "train-00000-of-00294.parquet and the others."
    )


def _check_shards(files: list[Path]) -> None:
    """Refuse files named `-00003-of-00294` of which some are missing, or there twice."""
    shards = [match for file in files if (match := SHARD.search(file.name))]
    if not shards:
        return
    numbers = sorted(int(match[1]) for match in shards)
    counts = {int(match[2]) for match in shards}
    if len(shards) == len(files) and counts == {len(files)}:
        if numbers == list(range(len(files))):
            return
    missing = sorted(set(range(max(counts))) - set(numbers))
    first = f", number {missing[0]} is missing" if missing else ""
    raise UserError(
        f"a split must be complete: {max(counts)} files, each once. Found: {len(files)}{first} in "
        f"{files[0].parent}. Download the others, remove what is there twice, or convert one file."
    )
