"""What a container cannot say about itself: names, keys, checksums, classes, how it was made.

One block of bytes, an .npz (never pickled) that carries a JSON text. In a .beton it lies inside the
file, where FFCV does not look; beside WebDataset shards it is a file of its own.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

_META = "meta_json"


def pack_sidecar(meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bytes:
    """Turn facts and arrays into one block, the same bytes for the same content."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_META: np.frombuffer(text, np.uint8)}, **arrays)
    return buffer.getvalue()


def unpack_sidecar(block: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Undo `pack_sidecar`.

    Raises:
        ValueError: the block is damaged.
    """
    try:
        with np.load(io.BytesIO(block), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"its index is damaged ({error})") from error
    return meta, arrays
