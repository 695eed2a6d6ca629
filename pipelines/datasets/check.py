"""Is a dataset that we wrote still what we wrote, byte by byte?

The index of a container says where everything is and what it is, so all other bytes of the
container (tables, tar headers, padding) can be made again from it and compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastdeit import UserError
from fastdeit.pipelines.datasets.beton import (
    ALLOCATION,
    DESCRIPTOR,
    HEADER,
    SAMPLE,
    VERSION,
    first_data_byte,
    next_offset,
    read_pointer,
    table_faults,
)
from fastdeit.pipelines.datasets.index import DatasetIndex, checksum
from fastdeit.pipelines.datasets.webdataset import (
    idx_text,
    is_shard_file,
    member_blocks,
    shard_sizes,
)

_CHUNK_BYTES = 1 << 20


def is_ours(index: DatasetIndex) -> bool:
    """Whether `fastdeit convert` wrote the dataset."""
    return index.checksums is not None and "parameters" in index.made_by


def sample_fault(index: DatasetIndex, sample: int) -> str:
    """What is wrong with the bytes of a sample, in a dataset of ours; empty if nothing is."""
    assert index.checksums is not None
    try:
        if index.container == "webdataset":
            return _shard_sample_fault(index, sample)
        found, stored = checksum(index.read(sample)), int(index.checksums[sample])
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{index.describe(sample)}: {error.strerror}: {error.filename}"
    if found != stored:
        return f"{index.describe(sample)}: checksum {found:016x}, not {stored:016x}"
    return ""


def _shard_sample_fault(index: DatasetIndex, sample: int) -> str:
    """The same for shards, with the tar headers, the padding and the label."""
    assert index.checksums is not None
    key, size, label = (int(c[sample]) for c in (index.keys, index.sizes, index.labels))
    head, tail = member_blocks(key, size, label, int(index.modes[sample]))
    with index.files[index.file_ids[sample]].open("rb") as file:
        offset = int(index.offsets[sample]) - len(head)
        block = os.pread(file.fileno(), len(head) + size + len(tail), offset)
    if len(block) < len(head) + size + len(tail):
        return f"{index.describe(sample)}: {file.name} ends before it does"
    found, stored = (
        checksum(memoryview(block)[len(head) : len(head) + size]),
        index.checksums[sample],
    )
    if found != stored:
        return f"{index.describe(sample)}: checksum {found:016x}, not {int(stored):016x}"
    if block[: len(head)] != head:
        return f"{index.describe(sample)}: its tar header is damaged"
    if block[len(head) + size :] != tail:
        return f"{index.describe(sample)}: its label, or what lies around it, is damaged"
    return ""


def structure_faults(index: DatasetIndex) -> Iterator[str]:
    """What is wrong with a dataset of ours outside its samples' bytes; a line for each fault."""
    if index.container == "beton":
        return _beton_faults(index)
    return _shard_faults(index)


def _beton_faults(index: DatasetIndex) -> Iterator[str]:
    """Compare the tables with what the index makes, and what must be empty with zeros."""
    yield from table_faults(index)
    path, num = index.path, len(index)
    fields = np.fromfile(path, dtype=DESCRIPTOR, count=2, offset=HEADER.itemsize)
    page_bytes = int(np.fromfile(path, dtype=HEADER, count=1)[0]["page_size"])
    block_at, block_bytes = read_pointer(fields) or (0, 0)
    with path.open("rb") as file:
        handle = file.fileno()
        end = block_at + block_bytes + num * ALLOCATION.itemsize
        if os.fstat(handle).st_size != end:
            yield f"{path}: {os.fstat(handle).st_size} bytes, not {end}"
        starts = np.append(index.offsets, block_at)
        tables_end = HEADER.itemsize + fields.nbytes + num * SAMPLE.itemsize
        ends = np.append(tables_end, index.offsets + index.sizes)
        for gap in np.flatnonzero(starts > ends).tolist():
            if not _is_empty(handle, int(ends[gap]), int(starts[gap])):
                yield f"{path}: bytes {ends[gap]} to {starts[gap]}, which must be 0, are not"
    total = int(index.made_by["source"]["num_images"])
    expected = first_data_byte(total, page_bytes)
    for sample, (offset, size) in enumerate(
        zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    ):
        expected = next_offset(expected, size, page_bytes)
        if offset != expected:
            yield f"{index.describe(sample)}: at byte {offset}, where pages want {expected}"
            return
        expected += size


def _is_empty(handle: int, start: int, end: int) -> bool:
    """Whether a stretch of a file is all zeros."""
    for at in range(start, end, _CHUNK_BYTES):
        data = os.pread(handle, min(_CHUNK_BYTES, end - at), at)
        if data.count(0) != min(_CHUNK_BYTES, end - at):
            return False
    return True


def _shard_faults(index: DatasetIndex) -> Iterator[str]:
    """Look at each shard's end and its .idx; the samples themselves are looked at one by one."""
    columns = index.columns()
    for shard, (file, size) in enumerate(zip(index.files, shard_sizes(index), strict=True)):
        if not file.is_file():
            yield f"{file}: no such file"
            continue
        found = file.stat().st_size
        if found != size:
            yield f"{file}: {found} bytes, not {size}"
        last = int(np.flatnonzero(index.file_ids == shard)[-1])
        _, tail = member_blocks(0, int(index.sizes[last]), 0, 0)
        end = int(index.offsets[last] + index.sizes[last]) + len(tail)
        with file.open("rb") as opened:
            if found == size and not _is_empty(opened.fileno(), end, int(size)):
                yield f"{file}: bytes {end} to {size}, which must be 0, are not"
        idx = file.with_suffix(".idx")
        if not idx.is_file():
            yield f"{idx}: no such file"
        elif idx.read_bytes() != idx_text(columns, shard).encode():
            yield f"{idx}: it does not say what the shard holds"
    for path in sorted(index.path.iterdir()):
        if not is_shard_file(path) or (path.suffix == ".tar" and path not in index.files):
            yield f"{path}: not a file of this dataset"


def lost_samples(path: Path) -> Iterator[str]:
    """Which samples a .beton that cannot be opened has lost, from the table at its front."""
    file_bytes = path.stat().st_size
    if file_bytes < HEADER.itemsize + 2 * DESCRIPTOR.itemsize:
        yield f"{path}: every sample; its head is cut off"
        return
    header = np.fromfile(path, dtype=HEADER, count=1)[0]
    offset = HEADER.itemsize + int(header["num_fields"]) * DESCRIPTOR.itemsize
    num = int(header["num_samples"])
    if header["version"] != VERSION or offset + num * SAMPLE.itemsize > file_bytes:
        yield f"{path}: every sample; the table of samples is cut off or damaged"
        return
    rows = np.fromfile(path, dtype=SAMPLE, count=num, offset=offset)
    starts = rows["f0"]["data_ptr"].astype(np.int64)
    # Of the last one that begins within the file nobody can say whether it ends there too.
    kept = np.flatnonzero(starts < file_bytes)
    doubtful = [int(kept[np.argmax(starts[kept])])] if len(kept) else []
    for sample in [*doubtful, *np.flatnonzero(starts >= file_bytes).tolist()]:
        yield f"{path}: sample {sample}, label {rows['f1'][sample]}, at byte {starts[sample]}"
