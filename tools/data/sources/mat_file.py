"""Struct arrays of text and numbers in MATLAB's files of version 5, such as ImageNet's meta.mat.

Damaged bytes are a ValueError here; scipy's reader can end the process by them.

Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_BYTES = 64 << 20
"""Of what is unpacked."""
_HEAD_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
"""The code of `struct` by the type of an element."""
_TEXTS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class _Element(NamedTuple):
    kind: int
    data: bytes


class _Matrix(NamedTuple):
    kind: int
    num_values: int
    name: str
    rest: list[_Element]
    """What its kind needs."""


def read_struct_array(content: bytes, name: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read some fields of a struct array, each one text or one number, as a dict an entry.

    Raises ValueError if the file is damaged, or the array or a field is not there or of another
    kind.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEAD_BYTES])
    if order is None:
        raise ValueError("no MAT-file of version 5")
    try:
        for element in _elements(content[_HEAD_BYTES:], order):
            matrix = _matrix(_unpacked(element, order), order)
            if matrix is not None and matrix.name == name:
                return _entries(matrix, fields, order)
    except (struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged data ({error})") from error
    raise ValueError(f"no array `{name}`")


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """The elements that lie behind each other in some bytes."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small one: size and kind in one word, data in the other
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        end = start + size
        if end > len(data) or (start == at + 4 and size > 4):
            raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
        yield _Element(kind, data[start:end])
        at = end if kind == _COMPRESSED else max(end + -end % 8, at + 8)


def _unpacked(element: _Element, order: str) -> _Element:
    if element.kind != _COMPRESSED:
        return element
    unpack = zlib.decompressobj()
    data = unpack.decompress(element.data, MAX_BYTES)
    if not unpack.eof:
        raise ValueError(f"packed data that is cut, or above {MAX_BYTES >> 20} MiB")
    return next(_elements(data, order))


def _matrix(element: _Element, order: str) -> _Matrix | None:
    """An array without a look at its values; None if it is none, or empty."""
    if element.kind != _MATRIX or not element.data:
        return None
    flags, sizes, name, *rest = _elements(element.data, order)
    count = 1
    for size in struct.unpack(f"{order}{len(sizes.data) // 4}i", sizes.data):
        count *= size
    (flag, _) = struct.unpack(f"{order}II", flags.data)
    return _Matrix(flag & 0xFF, count, name.data.decode("ascii"), rest)


def _entries(matrix: _Matrix, fields: tuple[str, ...], order: str) -> list[dict[str, Any]]:
    if matrix.kind != _STRUCT or len(matrix.rest) < 2:
        raise ValueError(f"`{matrix.name}` is no struct array")
    length, text = matrix.rest[0].data, matrix.rest[1].data
    (width,) = struct.unpack(f"{order}i", length)
    if width < 1:
        raise ValueError(f"names of fields of {width} bytes")
    names = [
        text[at : at + width].partition(b"\0")[0].decode("ascii")
        for at in range(0, len(text), width)
    ]
    missing = [field for field in fields if field not in names]
    values = matrix.rest[2:]
    if missing or len(values) != matrix.num_values * len(names):
        raise ValueError(f"no field {', '.join(missing)}" if missing else "entries that are cut")
    places = {field: names.index(field) for field in fields}
    return [
        {field: _value(values[first + place], order) for field, place in places.items()}
        for first in range(0, len(values), len(names))
    ]


def _value(element: _Element, order: str) -> str | float:
    """One text or one number."""
    matrix = _matrix(element, order)
    if matrix is None or not matrix.rest:
        return ""
    kind, data = matrix.rest[0]
    if matrix.kind == _CHAR and kind in _TEXTS:
        ending = {"<": "-le", ">": "-be"}[order] if _TEXTS[kind] in ("utf-16", "utf-32") else ""
        return data.decode(_TEXTS[kind] + ending)
    if matrix.kind != _CHAR and matrix.num_values == 1 and kind in _NUMBERS:
        (number,) = struct.unpack(order + _NUMBERS[kind], data)
        return float(number)
    raise ValueError(f"{matrix.num_values} values of kind {matrix.kind} stored as {kind}")
