"""FFCV's .beton, version 2: read and written without FFCV.

Layout (ffcv 1.0.2 types.py, writer.py): header; one descriptor a field; one metadata record a
sample; pages of data; the allocation table to the end of the file. A descriptor has 1,024 bytes of
arguments, which FFCV does not read for an integer field; ours point at a sidecar block that lies
between the data and the allocation table, so one file holds everything and FFCV's Loader still sees
just `image` and `label`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.index import JPEG_MODE, DatasetIndex
from fastdeit.pipelines.sidecar import pack_sidecar, unpack_sidecar

VERSION = 2
MIN_PAGE_BYTES = 8 << 20  # FFCV's default
MAX_PAGE_BYTES = 1 << 31  # a power of two that fits the header's u4
INT_FIELD, IMAGE_FIELD = 1, 2
MAGIC = np.frombuffer(b"fastdei1", dtype=np.uint8)

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


class BetonWriter:
    """Writes samples one after another into a temporary file and gives it its name at the end."""

    def __init__(self, path: Path, max_samples: int, largest_sample_bytes: int) -> None:
        """Begin a file.

        Args:
            path: the final name; nothing is there until `finish`.
            max_samples: the most `add` calls that will come; fewer are fine.
            largest_sample_bytes: size of the largest sample; no sample crosses a page.

        Raises:
            UserError: a sample is too large for the format.
        """
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.page_bytes = MIN_PAGE_BYTES
        while self.page_bytes < largest_sample_bytes:
            self.page_bytes *= 2
        if self.page_bytes > MAX_PAGE_BYTES:
            raise UserError(
                f"a sample must be below {MAX_PAGE_BYTES >> 30} GiB, the largest page of a .beton. "
                f"Found: up to {largest_sample_bytes} bytes. Leave that image out."
            )
        self._samples = np.zeros(max_samples, dtype=SAMPLE)
        self._allocations = np.zeros(max_samples, dtype=ALLOCATION)
        self._count = 0
        head_bytes = HEADER.itemsize + 2 * DESCRIPTOR.itemsize + self._samples.nbytes
        # FFCV's page-wise reader never looks at a page that holds metadata, so data begins on the
        # first page after it.
        self._position = -(-head_bytes // self.page_bytes) * self.page_bytes
        self._file = self.partial.open("wb")
        self._file.seek(self._position)

    def add(self, key: int, data: bytes, width: int, height: int, label: int) -> None:
        """Append one sample.

        Args:
            key: its stable key; it goes into the sidecar, with the others.
            data: a JPEG.
            width: columns, at most 65,535.
            height: rows, at most 65,535.
            label: class number.

        Raises:
            UserError: it is larger than a page, which only an image that was encoded again can be.
        """
        del key
        if len(data) > self.page_bytes:
            raise UserError(
                f"a sample must fit into a page of {self.page_bytes} bytes. Found: {len(data)}. "
                "Pass a lower --quality."
            )
        left_on_page = self.page_bytes - self._position % self.page_bytes
        if len(data) > left_on_page:
            self._position += left_on_page
            self._file.seek(self._position)
        number = self._count
        self._samples[number] = ((JPEG_MODE, width, height, self._position), label)
        self._allocations[number] = (number, self._position, len(data))
        self._file.write(data)
        self._position += len(data)
        self._count += 1

    def finish(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Write what is left, flush it to the disk, and give the file its name.

        Args:
            meta: facts for the sidecar.
            arrays: (N,) arrays for the sidecar: keys, checksums, names.
        """
        block = pack_sidecar(meta, arrays)
        pointer = np.zeros((), dtype=POINTER)
        pointer["magic"], pointer["ptr"], pointer["size"] = MAGIC, self._position, len(block)
        self._file.write(block)

        header = np.zeros((), dtype=HEADER)
        header["version"], header["num_fields"], header["page_size"] = VERSION, 2, self.page_bytes
        header["num_samples"] = self._count
        header["alloc_table_ptr"] = self._file.tell()
        fields = np.zeros(2, dtype=DESCRIPTOR)
        for field, name, kind in ((0, b"image", IMAGE_FIELD), (1, b"label", INT_FIELD)):
            fields[field]["type_id"] = kind
            fields[field]["name"][: len(name)] = np.frombuffer(name, np.uint8)
        fields[1]["arguments"][: POINTER.itemsize] = np.frombuffer(pointer.tobytes(), np.uint8)

        self._file.write(self._allocations[: self._count].tobytes())
        self._file.seek(0)
        # Room for samples that were left out stays empty between these and the first page.
        self._file.write(
            header.tobytes() + fields.tobytes() + self._samples[: self._count].tobytes()
        )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.partial.replace(self.path)

    def __enter__(self) -> BetonWriter:
        """Enter a block; leaving it by an exception removes the temporary file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what is unfinished."""
        try:
            self._file.close()
        finally:
            self.partial.unlink(missing_ok=True)


def open_beton(path: Path) -> DatasetIndex:
    """Open a .beton of ours or of FFCV's writer.

    A file of FFCV's names nothing: its keys are the sample numbers, its classes their numbers.

    Raises:
        UserError: it is no .beton of version 2, it is cut off, or it lacks an image or a label.
    """

    def refuse(found: str) -> UserError:
        return UserError(
            f"{path} is not a whole .beton of version {VERSION}. Found: {found}. "
            "Convert the source again with `fastdeit convert`."
        )

    file_bytes = path.stat().st_size
    if file_bytes < HEADER.itemsize:
        raise refuse(f"{file_bytes} bytes")
    header = np.fromfile(path, dtype=HEADER, count=1)[0]
    num, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if header["version"] != VERSION or not 0 < header["num_fields"] <= 64:
        raise refuse(f"version {header['version']} with {header['num_fields']} fields in its head")
    if table == 0:
        raise refuse("no allocation table: its writer was stopped before the end")
    if file_bytes < table + num * ALLOCATION.itemsize:
        raise refuse(f"{file_bytes} of at least {table + num * ALLOCATION.itemsize} bytes")
    fields = np.fromfile(
        path, dtype=DESCRIPTOR, count=int(header["num_fields"]), offset=HEADER.itemsize
    )
    kinds = [int(kind) for kind in fields["type_id"]]
    if kinds != [IMAGE_FIELD, INT_FIELD]:
        raise refuse(
            f"fields of types {kinds}, where an image ({IMAGE_FIELD}) and an integer "
            f"label ({INT_FIELD}) are needed"
        )
    samples = np.fromfile(path, dtype=SAMPLE, count=num, offset=HEADER.itemsize + fields.nbytes)
    allocations = np.fromfile(path, dtype=ALLOCATION, count=num, offset=table)
    sizes = np.zeros(num, dtype=np.int64)
    ids = allocations["sample_id"]
    if num == 0 or ids.max(initial=0) >= num:
        raise refuse(f"{num} samples, with numbers up to {ids.max(initial=0)}")
    sizes[ids] = allocations["size"]
    offsets = samples["f0"]["data_ptr"].astype(np.int64)
    if (offsets + sizes > file_bytes).any() or (sizes <= 0).any():
        raise refuse("samples that lie outside the file")

    meta: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    pointer = np.frombuffer(fields[1]["arguments"][: POINTER.itemsize].tobytes(), dtype=POINTER)[0]
    if (pointer["magic"] == MAGIC).all():
        with path.open("rb") as file:
            block = os.pread(file.fileno(), int(pointer["size"]), int(pointer["ptr"]))
        try:
            meta, arrays = unpack_sidecar(block)
        except ValueError as error:
            raise refuse(str(error)) from error
    else:
        arrays["keys"] = np.arange(num, dtype=np.uint64)
        numbers = [str(number) for number in range(int(samples["f1"].max()) + 1)]
        meta = {"class_ids": numbers, "class_names": numbers}
    return DatasetIndex(
        path=path,
        container="beton",
        files=(path,),
        file_ids=np.zeros(num, dtype=np.int32),
        offsets=offsets,
        sizes=sizes,
        modes=np.ascontiguousarray(samples["f0"]["mode"]),
        labels=samples["f1"].astype(np.int64),
        widths=samples["f0"]["width"].astype(np.int32),
        heights=samples["f0"]["height"].astype(np.int32),
        keys=arrays["keys"],
        names=arrays.get("names"),
        checksums=arrays.get("checksums"),
        class_ids=tuple(meta.get("class_ids", ())),
        class_names=tuple(meta.get("class_names", ())),
        made_by=meta,
    )
