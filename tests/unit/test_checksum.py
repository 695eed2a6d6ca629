"""The number over a checkpoint's content."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from fastdeit.checkpoints.checksum import content_checksum, map_content

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int64,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7,), (), (0, 3)], ids=str)
def test_only_the_values_of_a_tensor_count(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Strides, offset and shared memory change nothing; each byte, the dtype and the shape do."""
    bits = torch.randint(0, 2, (int(np.prod(shape)) * dtype.itemsize,), dtype=torch.uint8)
    tensor = bits.view(dtype).reshape(shape)
    expected = content_checksum({"x": tensor})
    wide = torch.zeros((*shape, 2), dtype=dtype)
    wide[..., 1] = tensor
    assert content_checksum({"x": wide[..., 1]}) == expected
    assert content_checksum({"x": tensor.clone()}) == expected
    if len(shape) == 4:
        last = tensor.clone(memory_format=torch.channels_last)
        assert last.stride() != tensor.stride()
        assert content_checksum({"x": last}) == expected
        assert content_checksum({"x": tensor.mT.contiguous()}) != expected
    assert content_checksum({"x": tensor.reshape(*shape, 1)}) != expected
    other = torch.int32 if dtype == torch.float32 else torch.float32
    if tensor.numel() == 0:
        assert content_checksum({"x": tensor.to(other)}) != expected
    for place in range(0, len(bits), 7):
        changed = bits.clone()
        changed[place] ^= 1
        assert content_checksum({"x": changed.view(dtype).reshape(shape)}) != expected


def test_unlike_values_differ() -> None:
    """No two of these contents have the same number."""
    contents: list[Any] = [
        {},
        [],
        (),
        None,
        True,
        1,
        1.0,
        "1",
        "",
        [1, 2],
        (1, 2),
        [12],
        [[1], 2],
        [1, [2]],
        ["a", "b"],
        ["ab"],
        ["ab", ""],
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {1: 1},
        {"1": 1},
        {"a": {"b": 1}},
        {"a": {}, "b": 1},
        0.0,
        -0.0,
        float("nan"),
        float("inf"),
        torch.tensor(0.0),
        torch.tensor(-0.0),
        torch.tensor(float("nan")),
        torch.tensor(0),
        torch.tensor([0.0]),
        torch.tensor([0.0]).view(torch.int32),
        torch.zeros(0),
        torch.zeros(0, 2),
    ]
    assert len({content_checksum(content) for content in contents}) == len(contents)
    assert len({content_checksum({"x": content}) for content in contents}) == len(contents)


def test_the_number_is_stable() -> None:
    """The number of a content is what it was when it was first written to files."""
    content = {"b": [1, 2.5, None], 3: (True, "x"), "a": torch.arange(6).reshape(2, 3)}
    assert content_checksum(content) == "c8e677d4963e79c1f2a3124abe79e816"
    turned = {key: content[key] for key in reversed(content)}
    assert content_checksum(turned) == content_checksum(content)
    assert content_checksum(OrderedDict(content)) == content_checksum(content)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1.0), r"Found: float64 at checkpoint.a.1\.$"),
        (b"bytes", "Found: bytes at checkpoint.a.1"),
        ({True: 1}, "keys must be str or int. Found: True in checkpoint.a.1"),
        (torch.ones(2, device="meta"), "must be dense and hold values. Found: checkpoint.a.1"),
        (torch.ones(2).to_sparse(), "must be dense and hold values. Found: checkpoint.a.1"),
    ],
)
def test_other_values_are_refused(value: object, text: str) -> None:
    """What weights-only loading would refuse, or change, is an error that names its place."""
    with pytest.raises(TypeError, match=text):
        map_content({"a": [0, value]}, lambda tensor: tensor)
