"""The index of a dataset as one block of bytes: its columns, its names, and how it was made.

In a .beton the block lies inside the file, where FFCV does not look; beside WebDataset shards it is
a file of its own; for what other programs made, it is kept in the cache. The layout is that of
safetensors (8 bytes of length, a JSON head, the arrays), so any program can read it, and nothing in
it is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from fastdeit.pipelines.datasets.names import Names
from fastdeit.text.json_text import parse_json

ALIGNMENT = 4096
"""The block must begin at a multiple of this in its file, and is padded to one of 64 inside."""

_DTYPES = {"U8": "<u1", "I32": "<i4", "I64": "<i8", "U64": "<u8"}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_META, _CHECKSUM = "fastdeit", "xxh3"
_CHUNK_BYTES = 1 << 22


def write_sidecar(file: BinaryIO, meta: Mapping[str, Any], columns: Mapping[str, Any]) -> int:
    """Write the block at the file's position, the same bytes for the same content.

    `meta` is what JSON can hold, `columns` are (N,) arrays by name, and `Names`. The result is the
    number of bytes written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, Names):
            arrays[f"{name}.text"], arrays[f"{name}.ends"] = column.text, column.ends
        else:
            arrays[name] = column
    # The wide ones first, so that each is aligned.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    head: dict[str, Any] = {"__metadata__": {_META: json.dumps(meta, ensure_ascii=False)}}
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        code = _CODES[array.dtype]
        head[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, end]}
    digest = xxhash.xxh3_64(json.dumps(head, sort_keys=True).encode())
    for _, array in ordered:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    head["__metadata__"][_CHECKSUM] = digest.hexdigest()
    text = json.dumps(head, sort_keys=True).encode()
    text += b" " * (-(8 + len(text)) % 64)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(np.ascontiguousarray(array).view(np.uint8).data)
    return 8 + len(text) + end


def read_sidecar(
    path: Path, offset: int = 0, size: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Undo `write_sidecar`; a size of None goes to the end of the file.

    All of it is in memory then: to read a mapped name of a file that was cut since would end the
    process. Raises ValueError if the block is damaged; its checksum is always compared.
    """
    with path.open("rb") as file:
        handle = file.fileno()
        held = os.fstat(handle).st_size - offset
        size = held if size is None else size
        length = int.from_bytes(os.pread(handle, 8, offset), "little") if held > 0 else 0
        if size > held or not 2 <= length <= size - 8:
            raise ValueError(f"its index has {held} of {max(size, length + 8)} bytes")
        try:
            text = os.pread(handle, length, offset + 8)
            head = parse_json(text)
            if text.rstrip(b" ") != json.dumps(head, sort_keys=True).encode():
                raise ValueError("it is not as it was written")
            stored = head["__metadata__"].pop(_CHECKSUM)
            meta = parse_json(head["__metadata__"][_META])
            specs = {name: spec for name, spec in head.items() if name != "__metadata__"}
            end = max((spec["data_offsets"][1] for spec in specs.values()), default=0)
            if not isinstance(meta, dict):
                raise TypeError("no facts")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"the head of its index is damaged ({error})") from error
        if end != size - 8 - length:
            raise ValueError(f"its index has {size - 8 - length} of {end} bytes")
        digest = xxhash.xxh3_64(json.dumps(head, sort_keys=True).encode())
        # Read, not mapped: what is only compared need not stay in this process's memory.
        for at in range(offset + 8 + length, offset + size, _CHUNK_BYTES):
            digest.update(os.pread(handle, min(_CHUNK_BYTES, offset + size - at), at))
    if digest.hexdigest() != stored:
        raise ValueError(f"its index has checksum {digest.hexdigest()}, not {stored}")
    try:
        arrays = _load_arrays(path, offset + 8 + length, specs)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its index is of another kind ({error})") from error
    return meta, arrays


def _load_arrays(path: Path, start: int, specs: dict[str, Any]) -> dict[str, Any]:
    """The arrays, with each pair of NAME.text and NAME.ends joined to `Names`."""
    arrays: dict[str, Any] = {}
    for name, spec in specs.items():
        first, last = spec["data_offsets"]
        dtype, (count,) = np.dtype(_DTYPES[spec["dtype"]]), spec["shape"]
        if first < 0 or count < 0 or count * dtype.itemsize != last - first:
            raise ValueError(f"{name} has {last - first} bytes for {count} values")
        arrays[name] = np.fromfile(path, dtype, count, offset=start + first)
    for name in [name for name in arrays if name.endswith(".ends")]:
        stem = name.removesuffix(".ends")
        arrays[stem] = Names(arrays.pop(f"{stem}.text"), arrays.pop(name))
    return arrays
