"""Comparing the contents of checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def assert_same(found: Any, expected: Any, where: str = "content") -> None:
    """Equal in names, types, shapes, dtypes and bits; without the checksum's code."""
    if isinstance(expected, dict):
        assert type(found) is dict, where
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected), where
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}.{number}")
    elif isinstance(expected, Tensor):
        assert type(found) is Tensor, where
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
        assert not found.requires_grad, where
        bits = [
            x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (found, expected)
        ]
        assert torch.equal(*bits), f"{where}: {found} is not {expected}"
    else:
        assert type(found) is type(expected), where
        assert repr(found) == repr(expected), where
