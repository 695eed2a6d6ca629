"""Which images all decoders read in the same way, told without decoding them.

PIL reads a JPEG's markers itself before libjpeg does, and refuses some that libjpeg takes. To ask
PIL costs 50 us an image, this less than one; what is not plain is left to PIL.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit.machine.numba_cache import compiled

_SOI, _SOS, _DHT, _DQT, _DRI, _COM = 0xD8, 0xDA, 0xC4, 0xDB, 0xDD, 0xFE
_LAST_FRAME = 0xC2  # 0xC0 baseline, 0xC1 extended, 0xC2 progressive
_APP0, _APP2, _APP13, _APP14, _APP15 = 0xE0, 0xE2, 0xED, 0xEE, 0xEF
_NUM_TABLES = 4

_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
# Chunks that change nothing of the pixels, and how long each is; None for any length.
_CHUNKS = {
    b"IDAT": None,
    b"tEXt": None,
    b"pHYs": 9,
    b"tIME": 7,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
}


@compiled()
def is_plain_jpeg(data: Any, width: Any, height: Any) -> bool:
    """Whether the head of a JPEG, (n,) uint8, is one that PIL takes as libjpeg does.

    It is then 8 bits deep, grey or of three components, and of the given size in pixels.
    """
    size = len(data)
    if size < 4 or data[0] != 0xFF or data[1] != _SOI:
        return False
    at, num_frames = 2, 0
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        length = _u16(data, at + 2)
        body, end = at + 4, at + 2 + length
        if length < 2 or end > size:
            return False
        if marker == _SOS:
            return num_frames == 1
        if marker == _DQT:
            if not _is_plain_tables(data, body, end):
                return False
        elif _APP0 <= marker <= _APP15:
            if not _is_plain_segment(data, marker, body, end):
                return False
        elif 0xC0 <= marker <= _LAST_FRAME:
            num_frames += 1
            components = data[body + 5] if length >= 8 else 0
            if (
                (components != 1 and components != 3)
                or length != 8 + 3 * components
                or data[body] != 8
                or _u16(data, body + 1) != height
                or _u16(data, body + 3) != width
            ):
                return False
        elif marker not in (_DHT, _DRI, _COM):
            return False
        at = end
    return False


@compiled()
def _u16(data: Any, at: Any) -> int:
    return (int(data[at]) << 8) | int(data[at + 1])


@compiled()
def _is_plain_tables(data: Any, at: Any, end: Any) -> bool:
    """Whether quantisation tables fill their segment."""
    while at < end:
        if data[at] & 15 >= _NUM_TABLES:
            return False
        at += 65 if data[at] >> 4 == 0 else 129
    return bool(at == end)


@compiled()
def _is_plain_segment(data: Any, marker: Any, body: Any, end: Any) -> bool:
    """Whether PIL finds in an application's segment all that it looks for."""
    # Source: Pillow JpegImagePlugin.APP, jpeg_factory.
    size = end - body
    if marker == _APP0:
        return bool(size >= 7 or not _begins(data, body, end, b"JFIF"))
    if marker == _APP14:
        return bool(size >= 7 or not _begins(data, body, end, b"Adobe"))
    if marker == _APP2:
        if _begins(data, body, end, b"ICC_PROFILE\0"):
            return bool(size >= 14)
        is_several: bool = _begins(data, body, end, b"MPF\0")
        return not is_several
    if marker == _APP13 and _begins(data, body, end, b"Photoshop 3.0\0"):
        return bool(_is_plain_photoshop(data, body, end))
    return True


@compiled()
def _is_plain_photoshop(data: Any, body: Any, end: Any) -> bool:
    """Whether the resources of Photoshop are whole, each 8BIM, code, name, size and content."""
    at = body + 14
    while _begins(data, at, end, b"8BIM"):
        at += 6
        if at >= end:
            return False
        at += 1 + int(data[at])
        at += (at - body) & 1
        if at + 4 > end:
            return False
        size = (_u16(data, at) << 16) | _u16(data, at + 2)
        at += 4 + size
        at += (at - body) & 1
    return True


@compiled()
def _begins(data: Any, at: Any, end: Any, text: Any) -> bool:
    if at + len(text) > end:
        return False
    for i in range(len(text)):
        if data[at + i] != text[i]:
            return False
    return True


def is_plain_png(data: NDArray[np.uint8], width: int, height: int) -> bool:
    """Whether a PNG, (n,) uint8, is whole, of the given size, and has nothing but pixels to show.

    It is then grey or RGB, 8 bits deep, not interlaced, not animated, and without transparency.
    """
    text = data.tobytes() if data[:4].tobytes() == _PNG_BEGINS[:4] else b""
    if text[:16] != _PNG_BEGINS + b"\0\0\0\rIHDR":
        return False
    kinds = (b"\x08" + bytes([kind, 0, 0, 0]) for kind in (_GREY, _RGB))
    if text[16:24] != struct.pack(">II", width, height) or text[24:29] not in kinds:
        return False
    at = len(_PNG_BEGINS)
    while at + 12 <= len(text):
        (length,), kind = struct.unpack_from(">I", text, at), text[at + 4 : at + 8]
        end = at + 8 + length
        if text[end : end + 4] != struct.pack(">I", zlib.crc32(text[at + 4 : end])):
            return False
        if kind == b"IEND":
            return True
        if at > len(_PNG_BEGINS) and _CHUNKS.get(kind, -1) not in (None, length):
            return False
        at = end + 4
    return False
