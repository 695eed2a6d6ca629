"""FFCV, imported with care, and the libturbojpeg that it is linked with.

FFCV's own decoding takes the fast DCT, which is not what PIL computes; its library's handle finds
libturbojpeg's functions too. Importing FFCV changes torch for the whole process; that is undone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from fastdeit import UserError

_torch_threads = torch.get_num_threads()
# FFCV keeps two numbers in one of numba's dictionaries, which takes seconds to compile.
_numba_dict, numba.typed.Dict = numba.typed.Dict, dict
try:
    import ffcv._libffcv
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.os_cache import OSCacheManager
    from ffcv.pipeline.compiler import Compiler
except (ImportError, OSError) as error:
    raise UserError(
        f"engine ffcv needs FFCV. Found: {error}. "
        "Install it with pip install 'fastdeit[ffcv]', or pass --engine dali or pil."
    ) from error
finally:
    numba.typed.Dict = _numba_dict
    torch.set_num_threads(_torch_threads)  # importing FFCV sets it to 1

__all__ = [
    "ACCURATE_DCT",
    "DECOMPRESS_ADDRESS",
    "RGB",
    "Compiler",
    "EpochIterator",
    "Loader",
    "OrderOption",
    "SimpleRGBImageDecoder",
    "decode_by_turbo",
    "decompress",
    "free_decompressor",
    "new_decompressor",
    "nothing_compiled",
]


def _set_num_threads(compiler: type[Compiler], count: int) -> None:
    """Set FFCV's number of threads; its own function changes torch's for the whole process too."""
    compiler.num_threads = count
    numba.set_num_threads(count)


def _compile_reader(manager: OSCacheManager) -> Any:  # noqa: ARG001 - FFCV's signature
    """Compile what finds a sample in the mapped file."""

    # FFCV's own marks numba's type of one-dimensional uint8 arrays, which all share, as read-only:
    # code compiled later cannot write to such arrays, and what was compiled before is not found
    # again when it is freed.
    def read(address: Any, state: Any) -> Any:
        file, begins, sizes = state
        return file[address : address + sizes[np.searchsorted(begins, address)]]

    return Compiler.compile(read)


Compiler.set_num_threads = classmethod(_set_num_threads)
OSCacheManager.compile_reader = _compile_reader


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Make a Loader whose operations are called as they are.

    FFCV compiles every Loader's anew; ours only call a function that is compiled and kept.
    """
    Compiler.set_enabled(False)
    try:
        yield
    finally:
        Compiler.set_enabled(True)


RGB, ACCURATE_DCT = 0, 4096

_library = ctypes.CDLL(ffcv._libffcv.__file__)
decompress = _library.tjDecompress2
"""(decompressor, data, bytes, pixels, width, pitch, height, RGB, ACCURATE_DCT) -> 0, or not."""
decompress.argtypes = [
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
]
decompress.restype = ctypes.c_int
DECOMPRESS_ADDRESS = np.uint64(ctypes.cast(decompress, ctypes.c_void_p).value or 0)
new_decompressor = _library.tjInitDecompress
new_decompressor.restype = ctypes.c_void_p
free_decompressor = _library.tjDestroy
free_decompressor.argtypes = [ctypes.c_void_p]


def decode_by_turbo(data: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG of a size to (height, width, 3) uint8; None unless it does without a warning.

    One of another size may leave pixels 0.
    """
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    handle = new_decompressor()
    try:
        failed = decompress(
            handle, data, len(data), pixels.ctypes.data, width, 0, height, RGB, ACCURATE_DCT
        )
    finally:
        free_decompressor(handle)
    return None if failed else pixels
