"""Contents of checkpoints: making small ones, saving, comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdeit.checkpoints.file import FORMAT, load_checkpoint
from fastdeit.checkpoints.store import CheckpointStore


def content_of(step: int) -> dict[str, Any]:
    """A content whose every value tells its step."""
    return {"format": FORMAT, "model": {"w": torch.full((4, 5), float(step))}, "step": step}


def names(out: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in out.iterdir())


def steps(out: Path) -> dict[str, int]:
    """The step in each whole checkpoint of a folder; a file that is not whole is an error."""
    return {name: load_checkpoint(out / name)["step"] for name in names(out)}


def save_all(out: Path, keep: int, *saves: int, best: int | None = None) -> None:
    """Save checkpoints of some steps, one after another."""
    with CheckpointStore(out, keep) as store:
        for step in saves:
            store.save(content_of(step), step, is_best=step == best)


def no_skip(text: str) -> None:
    """Nothing may be skipped."""
    raise AssertionError(text)


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
