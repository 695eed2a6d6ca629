"""FFCV's .beton, version 2: read and written without FFCV.

Layout (ffcv 1.0.2 types.py, writer.py): header; one descriptor a field; one metadata record a
sample; pages of data; the allocation table to the end of the file. A descriptor has 1,024 bytes of
arguments, which FFCV does not read for an integer field; ours point at a sidecar block that lies
between the data and the allocation table, so one file holds everything and FFCV's Loader still
sees just `image` and `label`. The sidecar repeats what the tables say, so that damage to either
shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.container import ContainerWriter, FileRange, write_at
from fastdeit.pipelines.datasets.index import (
    MAX_CLASSES,
    RAW_MODE,
    DamagedError,
    DatasetIndex,
    index_from_columns,
)
from fastdeit.pipelines.datasets.sidecar import ALIGNMENT, read_sidecar, write_sidecar

VERSION = 2
MIN_PAGE_BYTES = 8 << 20  # FFCV's default
MAX_PAGE_BYTES = 1 << 31  # a power of two that fits the header's u4
INT_FIELD, IMAGE_FIELD = 1, 2
MAGIC = np.frombuffer(b"fastdei2", dtype=np.uint8)
_CHUNK_ROWS = 1 << 16

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
DESCRIPTOR = np.dtype(
    [("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True
)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("f0", IMAGE), ("f1", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
POINTER = np.dtype([("magic", ("<u1", 8)), ("ptr", "<u8"), ("size", "<u8")])


class BetonWriter(ContainerWriter):
    """Writes one .beton.

    No sample crosses a page, which FFCV needs where the file is larger than memory. The page is the
    smallest that holds the largest sample; when a larger one comes, all is placed again.
    """

    def __init__(self, folder: Path, max_samples: int, largest_bytes: int = 0) -> None:
        """See `ContainerWriter`; `largest_bytes` is that of the largest sample known so far."""
        super().__init__(folder, max_samples)
        self._max_samples = max_samples
        self._set_page(_page_bytes_for(largest_bytes))

    def _set_page(self, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self._position = first_data_byte(self._max_samples, page_bytes)
        self.count = 0

    def path_of(self, file_id: int) -> Path:
        """The unfinished file; it is named by its pages."""
        del file_id
        return self.folder / f"pages-{self.page_bytes}"

    def place(self, size: int, label: int) -> tuple[int, int, int]:
        """See `ContainerWriter`."""
        del label
        offset = next_offset(self._position, size, self.page_bytes)
        self._position = offset + size
        return 0, offset, self._position

    def add(self, key: int, data: bytes | FileRange, label: int, mode: int) -> None:
        """See `ContainerWriter`; UserError if the sample is larger than any page."""
        if len(data) > self.page_bytes:
            self._place_again(_page_bytes_for(len(data)))
        super().add(key, data, label, mode)

    def resume(self, sizes: Iterable[int], labels: Iterable[int]) -> bool:
        """See `ContainerWriter`."""
        sizes = list(sizes)
        self._set_page(max(self.page_bytes, _page_bytes_for(max(sizes, default=0))))
        return super().resume(sizes, labels)

    def _place_again(self, page_bytes: int) -> None:
        """Copy everything to a file with larger pages; the old one stays until the next `sync`."""
        old = self.path_of(0)
        offsets, sizes = self.offsets[: self.count].tolist(), self.sizes[: self.count].tolist()
        self.close()
        self._set_page(page_bytes)
        self._open(0, os.O_TRUNC)
        if not sizes:
            return
        with old.open("rb") as source:
            for offset, size in zip(offsets, sizes, strict=True):
                _, to, _ = self._take(size, 0)
                write_at(self._handle, (os.pread(source.fileno(), size, offset),), to)

    def forget_older(self) -> None:
        """See `ContainerWriter`."""
        for path in self.folder.glob("pages-*"):
            if path != self.path_of(0):
                path.unlink()

    def finish(self, meta: dict[str, Any], columns: dict[str, Any]) -> Path:
        """See `ContainerWriter`."""
        if self._open_id < 0:
            self._open(0)
        os.truncate(self._handle, self._position)
        self.forget_older()
        columns = {**self.written(), **columns}
        block_at = -(-self._position // ALIGNMENT) * ALIGNMENT
        with os.fdopen(os.dup(self._handle), "r+b") as file:
            file.seek(block_at)
            block_bytes = write_sidecar(file, meta, columns)
            file.write(make_allocations(columns, slice(None)).data)
            file.seek(0)
            # Room for samples that were left out stays empty between these and the first page.
            file.write(make_head(self.count, self.page_bytes, block_at, block_bytes))
            file.write(make_records(columns, slice(None)).data)
            file.flush()
        self.close()
        return self.path_of(0)


def first_data_byte(max_samples: int, page_bytes: int) -> int:
    """Where the data begins: on the first page after the one on which the tables end.

    FFCV's page-wise reader never looks at a page that holds metadata.
    """
    head_bytes = HEADER.itemsize + 2 * DESCRIPTOR.itemsize + max_samples * SAMPLE.itemsize
    return -(-head_bytes // page_bytes) * page_bytes


def next_offset(position: int, size: int, page_bytes: int) -> int:
    """Where a sample goes that follows `position`: there, or on the next page."""
    left_on_page = page_bytes - position % page_bytes
    return position if size <= left_on_page else position + left_on_page


def _page_bytes_for(largest_bytes: int) -> int:
    """The smallest page, from FFCV's default up, that holds a sample."""
    page_bytes = MIN_PAGE_BYTES
    while page_bytes < largest_bytes:
        page_bytes *= 2
    if page_bytes > MAX_PAGE_BYTES:
        raise UserError(
            f"a sample must be below {MAX_PAGE_BYTES >> 30} GiB, the largest page of a .beton. "
            f"Found: {largest_bytes} bytes. Leave that image out, or pass --max-side 4096, say."
        )
    return page_bytes


def make_head(num: int, page_bytes: int, block_at: int, block_bytes: int) -> bytes:
    """The header and field descriptors of a .beton whose sidecar follows its data."""
    header = np.zeros((), dtype=HEADER)
    header["version"], header["num_fields"], header["page_size"] = VERSION, 2, page_bytes
    header["num_samples"], header["alloc_table_ptr"] = num, block_at + block_bytes
    pointer = np.zeros((), dtype=POINTER)
    pointer["magic"], pointer["ptr"], pointer["size"] = MAGIC, block_at, block_bytes
    fields = np.zeros(2, dtype=DESCRIPTOR)
    for field, name, kind in ((0, b"image", IMAGE_FIELD), (1, b"label", INT_FIELD)):
        fields[field]["type_id"] = kind
        fields[field]["name"][: len(name)] = np.frombuffer(name, np.uint8)
    fields[1]["arguments"][: POINTER.itemsize] = np.frombuffer(pointer.tobytes(), np.uint8)
    return header.tobytes() + fields.tobytes()


def make_records(columns: dict[str, Any], part: slice) -> NDArray[Any]:
    """The metadata records of a part of the samples."""
    samples = np.zeros(len(columns["keys"][part]), dtype=SAMPLE)
    image = samples["f0"]
    image["mode"], image["data_ptr"] = columns["modes"][part], columns["offsets"][part]
    image["width"], image["height"] = columns["widths"][part], columns["heights"][part]
    samples["f1"] = columns["labels"][part]
    return samples


def make_allocations(columns: dict[str, Any], part: slice) -> NDArray[Any]:
    """The allocation records of a part of the samples."""
    allocations = np.zeros(len(columns["keys"][part]), dtype=ALLOCATION)
    allocations["sample_id"] = np.arange(*part.indices(len(columns["keys"])))
    allocations["ptr"], allocations["size"] = columns["offsets"][part], columns["sizes"][part]
    return allocations


def open_beton(path: Path, is_checked: bool = True) -> DatasetIndex:
    """Open a .beton of ours or of FFCV's writer.

    A file of FFCV's names nothing: its keys are the sample numbers, its classes their numbers.
    `is_checked` tells whether our index must say what FFCV's tables say. Raises DamagedError if it
    is no .beton of version 2, cut off, or contradicts itself; UserError if it has other fields than
    an image and a label.
    """

    def refuse(found: str) -> DamagedError:
        return DamagedError(
            f"{path} is not a whole .beton of version {VERSION}. Found: {found}. "
            "Convert the source again with `fastdeit convert`."
        )

    file_bytes = path.stat().st_size
    if file_bytes < HEADER.itemsize:
        raise refuse(f"{file_bytes} bytes")
    header = np.fromfile(path, dtype=HEADER, count=1)[0]
    num, table, page_bytes = (
        int(header[name]) for name in ("num_samples", "alloc_table_ptr", "page_size")
    )
    if header["version"] != VERSION or not 0 < header["num_fields"] <= 64:
        raise refuse(f"version {header['version']} with {header['num_fields']} fields in its head")
    fields = np.fromfile(
        path, dtype=DESCRIPTOR, count=int(header["num_fields"]), offset=HEADER.itemsize
    )
    if len(fields) < header["num_fields"]:
        raise refuse(f"{file_bytes} bytes")
    kinds = [int(kind) for kind in fields["type_id"]]
    is_ours = any((field["arguments"][: len(MAGIC)] == MAGIC).all() for field in fields)
    if kinds != [IMAGE_FIELD, INT_FIELD] and is_ours:
        raise refuse(f"fields of types {kinds}")
    if kinds != [IMAGE_FIELD, INT_FIELD]:
        raise UserError(
            f"a .beton must have an image and an integer label, in this order. Found: fields of "
            f"types {kinds} instead of {[IMAGE_FIELD, INT_FIELD]}, in {path}. Write it again so."
        )
    if table == 0:
        raise refuse("no allocation table: its writer was stopped before the end")
    if file_bytes < table + num * ALLOCATION.itemsize:
        raise refuse(f"{file_bytes} of at least {table + num * ALLOCATION.itemsize} bytes")
    if page_bytes.bit_count() != 1:
        raise refuse(f"pages of {page_bytes} bytes")
    try:
        field_names(path)
        pointer = read_pointer(fields)
        if pointer is None:
            meta, columns = _read_tables(path, num, table)
        else:
            meta, columns = read_sidecar(path, *pointer)
        index = index_from_columns(path, "beton", (path,), meta, columns)
        if len(index) != num:
            raise ValueError(f"{num} samples in its head and {len(index)} in its index")
        if (index.sizes > file_bytes - index.offsets).any():
            raise ValueError("samples that lie outside the file")
        if (index.modes > RAW_MODE).any() or max(index.widths.max(), index.heights.max()) >> 16:
            raise ValueError("images that a .beton cannot hold")
        if pointer is not None and is_checked:
            fault = next(table_faults(index), "")
            if fault:
                raise ValueError(fault)
    except ValueError as error:
        raise refuse(str(error)) from error
    return index


def field_names(path: Path) -> tuple[str, str]:
    """What image and label are called in a .beton; ValueError if FFCV cannot tell them apart."""
    fields = np.fromfile(path, dtype=DESCRIPTOR, count=2, offset=HEADER.itemsize)
    raw = [field["name"].tobytes().partition(b"\0")[0] for field in fields]
    if not all(name.isascii() and name for name in raw) or len(set(raw)) < len(raw):
        raise ValueError(f"fields with the names {raw}")
    return raw[0].decode(), raw[1].decode()


def table_faults(index: DatasetIndex) -> Iterator[str]:
    """Where FFCV's tables in a .beton of ours say something else than its index."""
    path = index.path
    fields = np.fromfile(path, dtype=DESCRIPTOR, count=2, offset=HEADER.itemsize)
    page_bytes = int(np.fromfile(path, dtype=HEADER, count=1)[0]["page_size"])
    block_at, block_bytes = read_pointer(fields) or (0, 0)
    head = make_head(len(index), page_bytes, block_at, block_bytes)
    columns = index.columns()
    with path.open("rb") as file:
        handle = file.fileno()
        if os.pread(handle, len(head), 0) != head:
            yield f"{path}: its header is damaged"
        for what, make, offset in (
            ("metadata record", make_records, len(head)),
            ("allocation record", make_allocations, block_at + block_bytes),
        ):
            for first in range(0, len(index), _CHUNK_ROWS):  # all at once would take 60 MB
                rows = make(columns, slice(first, first + _CHUNK_ROWS)).view(np.uint8)
                size = rows.nbytes // min(_CHUNK_ROWS, len(index) - first)
                found = os.pread(handle, rows.nbytes, offset + first * size)
                if found == rows.tobytes():
                    continue
                left = np.frombuffer(found.ljust(rows.nbytes, b"?"), np.uint8)
                is_other = (left != rows).reshape(-1, size).any(axis=1)
                for sample in (first + np.flatnonzero(is_other)).tolist():
                    yield f"{index.describe(sample)}: its {what} is damaged"


def looks_like_beton(path: Path) -> bool:
    """Whether a file begins as a .beton does."""
    if path.stat().st_size < HEADER.itemsize:
        return False
    header = np.fromfile(path, dtype=HEADER, count=1)[0]
    return bool(header["version"] == VERSION and 0 < header["num_fields"] <= 64)


def read_pointer(fields: NDArray[Any]) -> tuple[int, int] | None:
    """Where the sidecar is, as (first byte, bytes); None in a file of FFCV's writer."""
    arguments = fields[1]["arguments"][: POINTER.itemsize].tobytes()
    pointer = np.frombuffer(arguments, dtype=POINTER)[0]
    if not any(arguments):
        return None
    if (pointer["magic"] != MAGIC).any():
        raise ValueError(f"an index of another version ({arguments[:8]!r})")
    return int(pointer["ptr"]), int(pointer["size"])


def _read_tables(path: Path, num: int, table: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and columns from FFCV's own tables."""
    samples = np.fromfile(
        path, dtype=SAMPLE, count=num, offset=HEADER.itemsize + 2 * DESCRIPTOR.itemsize
    )
    allocations = np.fromfile(path, dtype=ALLOCATION, count=num, offset=table)
    if num == 0 or len(samples) != num or len(allocations) != num:
        raise ValueError(f"{num} samples in its head, and not so many in its tables")
    allocations = allocations[np.argsort(allocations["sample_id"], kind="stable")]
    ids, labels = allocations["sample_id"], samples["f1"]
    if not np.array_equal(ids, np.arange(num, dtype=np.uint64)):
        raise ValueError(f"{num} samples, with numbers from {ids[0]} to {ids[-1]}")
    if not np.array_equal(allocations["ptr"], samples["f0"]["data_ptr"]):
        raise ValueError("tables that contradict each other")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    numbers = [str(number) for number in range(int(labels.max()) + 1)]
    return {"class_ids": numbers, "class_names": numbers}, {
        "file_ids": np.zeros(num, dtype=np.int32),
        "offsets": samples["f0"]["data_ptr"].astype(np.int64),
        "sizes": allocations["size"].astype(np.int64),
        "modes": np.ascontiguousarray(samples["f0"]["mode"]),
        "labels": labels.astype(np.int64),
        "widths": samples["f0"]["width"].astype(np.int32),
        "heights": samples["f0"]["height"].astype(np.int32),
        "keys": np.arange(num, dtype=np.uint64),
    }
