"""Tensors of a GPU that is not there: shapes, dtypes and devices are checked, nothing is computed.

An operation with tensors of two devices raises an error, as on a GPU; so does reading a number,
which would wait for one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fastdeit.augment
from fastdeit.machine.device import Compute

GPU = torch.device("cuda")


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Let tensors on "cuda" be pretended ones until the end of the block."""
    monkeypatch.setattr("fastdeit.augment.upload.fill_block", lambda *_: None)
    monkeypatch.setattr(Compute, "place", lambda _, model: placed(model))
    # Or torch would switch autocast off.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    forget()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        forget()


def forget() -> None:
    """Clear what augmentation keeps on devices: pretended and real tensors must not meet."""
    for found in pkgutil.iter_modules(fastdeit.augment.__path__, "fastdeit.augment."):
        for value in vars(importlib.import_module(found.name)).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def placed(model: nn.Module) -> nn.Module:
    """The model with its weights on the pretended GPU, in place."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                there = torch.empty(weight.shape, dtype=weight.dtype, device=GPU)
                module._parameters[name] = nn.Parameter(there, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
    return model
