"""What happens to one image on its way into a container."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin

from fastdeit import UserError
from fastdeit.keyed import Purpose, sample_states, uniform
from fastdeit.pipelines.datasets.container import FileRange
from fastdeit.pipelines.datasets.index import JPEG_MODE, PNG_MODE, RAW_MODE, checksum, sample_key
from fastdeit.pipelines.datasets.jpeg_head import EXIF_ORIENTATION, JpegHead, read_jpeg_head
from fastdeit.pipelines.datasets.pictures import MAX_PIXELS, PictureError, open_picture
from fastdeit.tools.data.sources.listing import Listing, Request
from fastdeit.tools.data.workers import CHUNK, ordered_map

MAX_SIDE = 65_535  # a .beton keeps sides in 16 bits
MAX_JPEG_SIDE = 65_500  # libjpeg writes no more
NOT_TURNED = "not applied"
"""Ends what is noted of an image that EXIF would turn."""
FULL_CHROMA = 0
BASELINE, PLAIN, ARITHMETIC = (0xC0,), (0xC0, 0xC1, 0xC2), (0xC9, 0xCA)
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""PIL's modes of 16 bits grey; it clips them to 255 where it converts them."""
_BITS_PER_SAMPLE = 258  # a TIFF's tag


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions:
    """How images are stored."""

    lossless: Literal["raw", "png"]
    """How the container stores pixels that must not change."""
    mode: Literal["auto", "jpg", "raw", "proportion"] = "auto"
    """auto: JPEG for what is stored as a file, lossless for sources of bare pixels."""
    jpg_fraction: float = 0.5
    """Of mode `proportion`: the share of images that stay JPEG."""
    max_side: int | None = None
    """Longest side in pixels; longer ones are scaled down."""
    short_side: int | None = None
    """Shorter side in pixels; longer ones are scaled down."""
    quality: int = 95
    """JPEG quality of what is encoded again."""
    reencode: Literal["needed", "nonbaseline", "all"] = "needed"
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether images are turned as their EXIF orientation says."""
    check: Literal["structure", "decode"] = "decode"
    """How far an image that passes through is checked."""
    sixteen_bit: Literal["scale", "clip"] = "scale"
    """Whether grey of 16 bits is divided by 257, or what is above 255 is white as in PIL."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(
                f"quality must be from 1 to 100. Found: {self.quality}. Pass --quality 95."
            )
        for name, side in (("max-side", self.max_side), ("short-side", self.short_side)):
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise UserError(
                    f"{name} must be from 1 to {MAX_SIDE} pixels. Found: {side}. "
                    f"Pass --{name} 500, or leave it out."
                )
        if self.max_side is not None and self.short_side is not None:
            raise UserError(
                f"only one of max-side and short-side can decide the size. Found: "
                f"{self.max_side} and {self.short_side}. Leave one out."
            )
        if self.jpg_fraction != 0.5 and self.mode != "proportion":
            raise UserError(
                f"jpg-fraction is for mode proportion. Found: {self.jpg_fraction} with mode "
                f"{self.mode}. Pass --mode proportion, or leave it out."
            )
        if not 0 <= self.jpg_fraction <= 1:
            raise UserError(
                f"jpg-fraction must be from 0 to 1. Found: {self.jpg_fraction}. Pass 0.5."
            )

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """The size in pixels in which an image is stored; never larger than it is."""
        if self.max_side is not None:
            scale = self.max_side / max(width, height)
        elif self.short_side is not None:
            scale = self.short_side / min(width, height)
        else:
            return width, height
        if scale >= 1:
            return width, height
        return max(1, round(width * scale)), max(1, round(height * scale))

    def is_lossless(self, key: int, is_pixels: bool) -> bool:
        """Whether an image is stored as pixels."""
        if self.mode == "proportion":
            keys, copies = np.array([key], np.uint64), np.zeros(1, np.int64)
            return bool(
                uniform(sample_states(0, Purpose.STORE, 0, keys, copies), 0)[0] >= self.jpg_fraction
            )
        return is_pixels if self.mode == "auto" else self.mode == "raw"


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready to be written, or the reason why it cannot be."""

    data: bytes | FileRange
    """What is stored, or where it lies if it is stored as it is; empty if the image is bad."""
    mode: int = JPEG_MODE
    """As in `DatasetIndex.modes`."""
    width: int = 0
    height: int = 0
    checksum: int = 0
    note: str = ""
    """What is unusual about the source and what was done; empty for a plain JPEG."""
    error: str = ""
    """Why the image cannot be used; empty if it can."""


def prepare_image(options: ImageOptions, item: tuple[int, Request]) -> PreparedImage:
    """Read one image and bring it into the form in which it is stored."""
    key, request = item
    try:
        stored = request.read()
    except ValueError as error:
        return PreparedImage(b"", error=str(error))
    except (FileNotFoundError, PermissionError) as error:
        # One file that cannot be read is a bad image; a source that has gone is none of them.
        if not Path(error.filename).parent.is_dir():
            raise
        return PreparedImage(b"", error=error.strerror or str(error))
    if isinstance(stored, np.ndarray):
        return _store_pixels(Image.fromarray(stored), key, options, [])
    if not stored:
        return PreparedImage(b"", error="an empty file")
    try:
        # Up to the frame header only, where no image passes: the decoder finds what is damaged.
        head = read_jpeg_head(stored, is_whole=options.reencode != "all")
        is_jpeg = stored[:3] == b"\xff\xd8\xff"
        is_plain = head is not None and not head.fault and head.frame in PLAIN
        if is_jpeg and options.reencode != "all" and (not is_plain or options.check == "decode"):
            head = _decoded_head(stored, head)
        if head is None or not _passes(head, key, options):
            return _decode_and_store(stored, head, key, options)
    except PictureError as error:
        return PreparedImage(b"", error=str(error))
    # Where it lies, not its bytes: sending them to the process that writes costs more than all the
    # rest.
    data = request if isinstance(request, FileRange) else stored
    return PreparedImage(
        data, JPEG_MODE, head.width, head.height, checksum(stored), _describe_kept(head)
    )


def _passes(head: JpegHead, key: int, options: ImageOptions) -> bool:
    """Whether the bytes of a JPEG are stored as they are."""
    is_baseline = options.reencode == "nonbaseline"
    frames = BASELINE if is_baseline else PLAIN + ARITHMETIC
    components = (3,) if is_baseline else (1, 3)
    return (
        not (head.fault and is_baseline)
        and head.precision == 8
        and head.frame in frames
        and head.components in components
        and head.width * head.height <= MAX_PIXELS
        and (head.orientation == 1 or options.exif == "ignore")
        and options.reencode != "all"
        and options.target_size(head.width, head.height) == (head.width, head.height)
        and not options.is_lossless(key, is_pixels=False)
    )


def _describe_kept(head: JpegHead) -> str:
    notes = []
    if head.fault:
        notes.append(f"damaged JPEG ({head.fault}) that PIL decodes, kept")
    if head.frame in ARITHMETIC:
        notes.append("arithmetic coding, kept")
    if head.components == 1:
        notes.append("greyscale JPEG, kept")
    if head.is_progressive:
        notes.append("progressive JPEG, kept")
    if head.orientation != 1:
        notes.append(f"EXIF orientation {head.orientation}, kept and {NOT_TURNED}")
    return "; ".join(notes)


def _decoded_head(data: bytes, head: JpegHead | None) -> JpegHead:
    """The head of a JPEG that PIL decodes; PictureError for others.

    It is PIL's if there is none where it should be. All is read, but for an eighth of the size.
    """
    with open_picture(data) as image:
        if head is None:
            bands, fault = len(image.getbands()), "a fault before its frame header"
            frame = 0xC2 if "progressive" in image.info else 0xC0
            head = JpegHead(*image.size, bands, 8, frame, _orientation(image, None), fault)
        _draft(image, head, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    return head


def _draft(image: Image.Image, head: JpegHead | None, size: tuple[int, int]) -> None:
    """Let libjpeg scale a JPEG down to no less than a size while it decodes, where it can."""
    # Of lossless JPEGs libjpeg-turbo 3 decodes every pixel all the same, and Pillow (12.3) lets it
    # write them behind the end of its smaller image.
    if head is not None and not head.fault and head.frame in PLAIN + ARITHMETIC:
        image.draft(image.mode, size)


def _decode_and_store(
    data: bytes, head: JpegHead | None, key: int, options: ImageOptions
) -> PreparedImage:
    """Decode what does not pass, and store it as the options say; PictureError if it is bad."""
    notes = []
    with open_picture(data) as image:
        kind, mode, orientation = image.format, image.mode, _orientation(image, head)
        sampling = JpegImagePlugin.get_sampling(image) if mode == "RGB" else -1
        target = options.target_size(*image.size)
        if target != image.size:
            _draft(image, head, (2 * target[0], 2 * target[1]))
        image.load()
        white = _white(image)
        image = _with_eight_bits(image, options)
        if kind not in ("JPEG", "MPO") or mode not in ("RGB", "L"):
            notes.append(f"{kind} in mode {mode}")
            if mode not in ("RGB", "L") and image.mode == "L":
                notes.append(f"0 to {white} scaled to 0 to 255")
        elif head is not None and head.fault:
            notes.append(f"damaged JPEG ({head.fault}) that PIL decodes")
        elif head is not None and head.frame not in PLAIN + ARITHMETIC:
            notes.append(f"JPEG of another kind (SOF{head.frame - 0xC0})")
        elif head is not None and options.reencode == "nonbaseline":
            notes += ["greyscale JPEG"] if head.components == 1 else []
            notes += ["progressive JPEG"] if head.is_progressive else []
            notes += ["arithmetic coding"] if head.frame in ARITHMETIC else []
        if image.mode not in ("RGB", "L"):
            image = image.convert("RGB")
        if orientation != 1:
            applied = options.exif == "apply"
            notes.append(f"EXIF orientation {orientation}, {'applied' if applied else NOT_TURNED}")
            if applied:
                image.getexif()[EXIF_ORIENTATION] = orientation
                image = ImageOps.exif_transpose(image)
                target = target if orientation < 5 else (target[1], target[0])
        if target != image.size:
            image = image.resize(target, Image.Resampling.BICUBIC)
        return _store_pixels(image, key, options, notes, sampling)


def _with_eight_bits(image: Image.Image, options: ImageOptions) -> Image.Image:
    """Grey of 16 bits scaled to 8, if asked; PictureError for what has no scale to go by."""
    # PIL scales what a PGM or PPM holds to 16 bits.
    is_sixteen = image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")
    if is_sixteen and options.sixteen_bit == "scale":
        wide, white = np.asarray(image).astype(np.uint32), _white(image)
        scaled = np.minimum((wide * 255 + white // 2) // white, 255)
        return Image.fromarray(scaled.astype(np.uint8))
    if image.mode in ("I", "F") and not is_sixteen:
        raise PictureError(f"{image.format} in mode {image.mode}, of no known scale")
    return image


def _white(image: Image.Image) -> int:
    """The greatest value of a picture of up to 16 bits grey; a TIFF says how many are used."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return int((1 << bits[0]) - 1 if 8 < bits[0] <= 16 else 65535)


def _orientation(image: Image.Image, head: JpegHead | None) -> int:
    try:
        found = head.orientation if head is not None else image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # whatever PIL raises at damaged EXIF, of which the pixels know nothing
        return 1
    return found if found in range(1, 9) else 1


def _store_pixels(
    image: Image.Image,
    key: int,
    options: ImageOptions,
    notes: list[str],
    sampling: int | None = None,
) -> PreparedImage:
    is_pixels = sampling is None
    if is_pixels and (target := options.target_size(*image.size)) != image.size:
        image = image.resize(target, Image.Resampling.BICUBIC)
    is_jpeg = not options.is_lossless(key, is_pixels)
    most = MAX_JPEG_SIDE if is_jpeg else MAX_SIDE
    if max(image.size) > most:
        return PreparedImage(b"", error=f"{image.width}x{image.height} pixels, over {most} a side")
    buffer = io.BytesIO()
    if is_jpeg:
        image.save(
            buffer,
            "JPEG",
            quality=options.quality,
            subsampling=sampling if sampling in (0, 1, 2) else FULL_CHROMA,
        )
        data, mode, how = (
            buffer.getvalue(),
            JPEG_MODE,
            f"encoded again at quality {options.quality}",
        )
    elif options.lossless == "png":
        image.save(buffer, "PNG")
        data, mode, how = buffer.getvalue(), PNG_MODE, "stored as PNG"
    else:
        data, mode, how = image.convert("RGB").tobytes(), RAW_MODE, "stored raw"
    note = f"{'; '.join(notes)}; {how}" if notes else ""
    return PreparedImage(data, mode, image.width, image.height, checksum(data), note)


CHUNK_BYTES = 2 << 20
"""A task ends early with so many bytes: what waits to be written must not fill the memory."""
SEQUENTIAL_CHUNK, SEQUENTIAL_BYTES = 64, 8 << 20
"""The same where neighbours are read together; Parquet's row groups often hold 100 images."""
PROBE_IMAGES = 64
"""So many images tell how large the result will be, where sizes of files do not."""

Item = tuple[int, Request]


def _ended_a_process(code: int) -> PreparedImage:
    """The result of an image that ends the process which decodes it."""
    return PreparedImage(b"", error=f"its decoding ends the process (exit code {code})")


class Preparation:
    """What happens to all images of a source."""

    def __init__(self, listing: Listing, options: ImageOptions, workers: int) -> None:
        self.listing, self.options, self.workers = listing, options, workers

    def images(self, places: NDArray[np.int64]) -> Generator[PreparedImage, None, None]:
        """The images at some places of the listing, in that order."""
        return ordered_map(
            prepare_image, self.options, self._chunks(places), self.workers, _ended_a_process
        )

    def _chunks(self, places: NDArray[np.int64]) -> Iterator[list[Item]]:
        """Tasks for the workers: (key, request) of a few images."""
        most, most_bytes = CHUNK, CHUNK_BYTES
        if self.listing.is_sequential:
            most, most_bytes = SEQUENTIAL_CHUNK, SEQUENTIAL_BYTES
        chunk: list[Item] = []
        num_bytes = 0
        for place in map(int, places):
            chunk.append(self._item(place))
            num_bytes += int(self.listing.sizes[place])
            if len(chunk) == most or num_bytes >= most_bytes:
                yield chunk
                chunk, num_bytes = [], 0
        if chunk:
            yield chunk

    def _item(self, place: int) -> Item:
        return sample_key(self.listing.names[place]), self.listing.requests[place]

    def expected_bytes(self) -> int:
        """About how many bytes the result takes: exact where files pass through."""
        sizes, options = self.listing.sizes, self.options
        is_kept = options.mode in ("auto", "jpg") and options.reencode != "all"
        if is_kept and options.max_side is None and options.short_side is None:
            return int(sizes.sum())
        # Evenly spread, and a little less than they promise: a guess must not refuse what fits.
        places = np.linspace(0, len(sizes) - 1, min(PROBE_IMAGES, len(sizes))).astype(np.int64)
        probed = [len(prepare_image(options, self._item(int(place))).data) for place in places]
        return int(0.9 * len(sizes) * sum(probed) / len(probed))
