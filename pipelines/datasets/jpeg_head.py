"""What a JPEG says of itself, read from its markers without decoding it.

Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

EXIF_ORIENTATION = 0x0112
HEAD_BYTES = 1 << 16
"""Enough of a file to find the frame header behind an EXIF block with its thumbnail, mostly."""

_SOI, _EOI, _SOS, _DHT, _DQT, _APP0, _APP1, _APP14, _COM, _DRI, _DNL = (
    0xD8,
    0xD9,
    0xDA,
    0xC4,
    0xDB,
    0xE0,
    0xE1,
    0xEE,
    0xFE,
    0xDD,
    0xDC,
)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_KNOWN = frozenset((_DHT, _DQT, _SOS, _COM, _DRI, _DNL)) | frozenset(range(_APP0, 0xF0)) | _FRAMES
# Inside a scan, 0xFF is followed by 0 (a stuffed byte), by a restart number, or begins a marker.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class JpegHead:
    """The frame header and what else decides how a decoder reads the file."""

    width: int
    """Columns in pixels, as stored (EXIF orientation not applied)."""
    height: int
    components: int
    """1: grey; 3: YCbCr or RGB; 4: CMYK or YCCK."""
    precision: int
    """Bits a sample; 8 for nearly all files."""
    frame: int
    """The marker of the frame: 0xC0 baseline, 0xC1 extended, 0xC2 progressive."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 if there is none."""
    fault: str
    """What is wrong with the structure; empty if every marker is in its place up to the end."""

    @property
    def is_progressive(self) -> bool:
        """Whether the image comes in several passes."""
        return self.frame == 0xC2


def read_jpeg_head(data: bytes, is_whole: bool = True) -> JpegHead | None:
    """Walk through the markers of a JPEG, or of its beginning.

    With `is_whole` its end is looked at too. None if it is no JPEG, or if its frame header is not
    in `data`.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, size = 2, len(data)
    frame: tuple[int, int, int, int, int] | None = None
    orientation, tables, fault, scans = 1, 0, "", 0
    while True:
        while at + 1 < size and data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1  # fill bytes
        if at + 4 > size:
            if not (at + 2 <= size and data[at] == 0xFF and data[at + 1] == _EOI):
                fault = "it ends before its end marker"
            elif scans == 0:
                fault = "no scan"
            break
        marker = data[at + 1]
        if data[at] == 0xFF and marker == _EOI:
            fault = "" if scans else "no scan"
            break
        if data[at] != 0xFF or marker not in _KNOWN:
            fault = f"no marker, or an unknown one, at byte {at}"
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body, end = at + 4, at + 2 + length
        if length < 2 or end > size:
            fault = f"the segment at byte {at} is cut off"
            break
        if marker in _FRAMES and frame is None:
            if length < 8:
                fault = "a frame header that is too short"
                break
            precision, height, width, components = struct.unpack_from(">BHHB", data, body)
            frame = (width, height, components, precision, marker)
            if length != 8 + 3 * components or width == 0 or height == 0:
                fault = "a frame header that contradicts itself"
                break
            if not is_whole:
                break
        elif marker in _FRAMES:
            fault = "two frame headers"
            break
        elif marker == _APP1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[body + 6 : end])
        elif marker == _DQT:
            tables |= 1
        elif marker == _DHT:
            tables |= 2
        elif marker == _SOS:
            if frame is None or tables != 3:
                fault = "a scan without frame header or tables"
                break
            scans += 1
            found = _MARKER_IN_SCAN.search(data, end)
            if found is None:
                fault = "it ends in the middle of a scan"
                break
            end = found.start()
        at = end
    if frame is None:
        return None
    width, height, components, precision, marker = frame
    return JpegHead(width, height, components, precision, marker, orientation, fault)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation that a block of EXIF says; 1 if it says none, or nothing valid."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == EXIF_ORIENTATION:
            return int(value) if kind == 3 and 1 <= value <= 8 else 1
    return 1
