"""What a checkpoint may hold, and one number over all of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch
import xxhash
from torch import Tensor


def map_content(
    value: Any, on_tensor: Callable[[Tensor], Tensor], where: str = "checkpoint"
) -> Any:
    """Rebuild nested dicts, lists and tuples with each tensor replaced; the rest stays.

    Every dict becomes a plain one: an OrderedDict's attributes would be saved and covered by no
    checksum. Keys are str or int. Anything but tensors, str, int, float, bool and None raises
    TypeError: it could not be loaded again without running code.
    """
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"keys must be str or int. Found: {key!r} in {where}.")
        return {key: map_content(v, on_tensor, f"{where}.{key}") for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_content(v, on_tensor, f"{where}.{n}") for n, v in enumerate(value))
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"a tensor must be dense and hold values. Found: {where}.")
        return on_tensor(value)
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(
        "a checkpoint holds tensors, numbers, strings, None and dicts, lists, tuples of them. "
        f"Found: {type(value).__name__} at {where}."
    )


def content_checksum(content: Any) -> str:
    """One number over names, types, shapes, dtypes and every byte of the values.

    XXH3 of 128 bits in 32 hexadecimal digits. Dicts are walked by their sorted keys: their order
    does not count. Neither do a tensor's strides, its device, or whether it shares memory. 0.0 and
    -0.0 differ, and so do 1, 1.0 and True. Tensors that are on a GPU or not contiguous are copied,
    one at a time.
    """
    digest = xxhash.xxh3_128()
    _walk(content, digest.update)
    return digest.hexdigest()


def _walk(value: Any, update: Callable[[Any], None]) -> None:
    """Feed a value to a digest: a tag, the length, the bytes, so that no two values read alike."""
    if isinstance(value, dict):
        update(b"d%d;" % len(value))
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            _walk(key, update)
            _walk(value[key], update)
    elif isinstance(value, (list, tuple)):
        update(b"%s%d;" % (b"l" if isinstance(value, list) else b"u", len(value)))
        for item in value:
            _walk(item, update)
    elif isinstance(value, Tensor):
        shape = ",".join(map(str, value.shape))
        update(f"t{value.dtype}[{shape}];".encode())
        update(_bytes(value))
    elif isinstance(value, float):
        update(b"f" + struct.pack("<d", value))
    else:
        data = str(value).encode("utf-8", "surrogatepass")
        update(f"{type(value).__name__}{len(data)};".encode())
        update(data)


def _bytes(tensor: Tensor) -> Any:
    """The values of a tensor in the order of its indices, as a (num_bytes,) uint8 array."""
    host = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return host.reshape(-1).view(torch.uint8).numpy()
