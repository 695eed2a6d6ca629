"""Opening pictures: the one place where encoded images meet PIL's readers, whoever made them.

The verdict on a picture is the same in every process, whatever a program has set in PIL, and it is
one line: neither PIL's warnings nor libtiff's messages get to the terminal.
"""

from __future__ import annotations

import ctypes
import functools
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

PILS_LIMIT = 89_478_485
MAX_PIXELS = 2 * PILS_LIMIT
"""Above it PIL speaks of a decompression bomb and stops."""

# Not all that Pillow has: some of its readers start programs (EPS), and some only pass on what
# another library must read (WMF, GRIB, HDF5). MPO begins as a JPEG.
_READ = frozenset(
    "JPEG PNG WEBP BMP DIB PPM TIFF GIF AVIF JPEG2000 HEIF QOI TGA ICO ICNS PCX SGI SUN PSD "
    "DDS".split()
)

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class PictureError(ValueError):
    """Bytes are no picture, or one that does not decode; the text is the reason, in one line."""


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are opened, by PIL's names: as many as this Pillow reads.

    With pillow-heif (the extra `heif`) HEIF too.
    """
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    # In Pillow's own order: some readers take what another one should have (TGA has no mark).
    return tuple(name for name in Image.ID if name in _READ)


@contextmanager
def open_picture(source: bytes | Path) -> Iterator[Image.Image]:
    """Open a picture, a file or its bytes; it is decoded within the block, if it is.

    Raises PictureError for what is none, has more than `MAX_PIXELS`, or does not decode in the
    block; OSError if there is no such file.
    """
    with (
        nullcontext(io.BytesIO(source)) if isinstance(source, bytes) else source.open("rb") as file,
        _as_pil_begins(),
    ):
        begin = file.read(8)
        if begin[:2] in (b"II", b"MM"):
            _quieten_libtiff()
        # These two are known at once; to import all readers takes a tenth of a second.
        quick = {b"\xff\xd8\xff": ("JPEG",), b"\x89PN": ("PNG",)}
        try:
            with Image.open(file, formats=quick.get(begin[:3]) or formats()) as image:
                yield image
        except UnidentifiedImageError as error:
            reason = "in no format of pictures that is read"
            if begin[4:8] == b"ftyp" and "HEIF" not in formats():
                reason += "; HEIF is, with pip install 'fastdeit[heif]'"
            raise PictureError(reason) from error
        except MemoryError:
            raise  # says nothing of the picture
        except Exception as error:  # whatever a damaged file makes a decoder raise
            raise PictureError(one_line(error)) from error


def decode_picture(data: bytes) -> Image.Image:
    """Decode a picture to RGB as DeiT does; PictureError if it does not decode as a whole.

    It is not turned by EXIF. Source: torchvision datasets.folder.pil_loader.
    """
    with open_picture(data) as image:
        return image.convert("RGB")


def one_line(error: Exception) -> str:
    """An error's text in one line, the same in each run, with its kind where the text says little.

    Python's addresses of objects are left out.
    """
    text = _ADDRESS.sub("", " ".join(str(error).split()))
    known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError)
    return text if known and text else f"{type(error).__name__}: {text}"


@contextmanager
def _as_pil_begins() -> Iterator[None]:
    """PIL's settings as they are when it is imported, without its warnings."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd metadata; a picture that it shows is whole
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, PILS_LIMIT
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


@functools.cache
def _quieten_libtiff() -> None:
    """Stop libtiff from writing to the terminal; what it finds arrives as PIL's error."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    for path in {line.split()[-1] for line in lines if "libtiff" in line}:
        try:
            library = ctypes.CDLL(path)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                function = getattr(library, name)
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
                function(None)
        except (OSError, AttributeError):  # another libtiff than Pillow's
            continue
