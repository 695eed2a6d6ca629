"""What happens to one image on its way into a container."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_SIDE = 65_535  # a .beton keeps sides in 16 bits
EXIF_ORIENTATION = 0x0112
PASSED_MODES = ("RGB", "L")


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready to be written, or the reason why it cannot be."""

    data: bytes
    """A JPEG, empty if the image is bad."""
    width: int
    """Columns in pixels."""
    height: int
    """Rows in pixels."""
    irregular: str = ""
    """What is unusual about the source file and what was done; empty for a plain JPEG."""
    error: str = ""
    """Why the image cannot be used; empty if it can."""


def prepare_image(quality: int, path: Path) -> PreparedImage:
    """Read an image, make sure that it decodes, and re-encode it if it is no RGB or grey JPEG.

    Args:
        quality: JPEG quality of a re-encoded image, with full chroma resolution.
        path: the file.

    Returns:
        The original bytes wherever they can be kept. EXIF orientation is kept and not applied, as
        DeiT's loader does not apply it.
    """
    try:
        data = path.read_bytes()
        if not data:
            return PreparedImage(b"", 0, 0, error="an empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return PreparedImage(b"", 0, 0, error=str(error))
    if max(image.size) > MAX_SIDE:
        return PreparedImage(b"", 0, 0, error=f"{image.width}x{image.height} pixels")
    notes = []
    if image.format in ("JPEG", "MPO") and image.mode in PASSED_MODES:
        if image.mode == "L":
            notes.append("greyscale JPEG, kept")
        if image.info.get("progressive"):
            notes.append("progressive JPEG, kept")
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        if orientation != 1:
            notes.append(f"EXIF orientation {orientation}, kept and not applied")
        return PreparedImage(data, image.width, image.height, "; ".join(notes))
    kind = f"{image.format} in mode {image.mode}, encoded again at quality {quality}"
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, subsampling=0)
    return PreparedImage(buffer.getvalue(), image.width, image.height, kind)
