"""What computes in a run: compiled where asked, activations computed again, precisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastdeit.device import Compute
from fastdeit.recipes import fill_recipe
from fastdeit.session import compile_model


@pytest.mark.parametrize(
    ("mode", "device", "is_compiled"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("default", "cpu", True),
        ("reduce-overhead", "cuda", True),
        ("off", "cuda", False),
    ],
)
def test_the_model_is_compiled_as_in_training(mode: Any, device: str, is_compiled: bool) -> None:
    """On a GPU unless switched off, on a CPU only when asked for; nothing is compiled here yet."""
    config = fill_recipe("demo-teacher", Path("x"))
    config = replace(config, run=replace(config.run, compile=mode))
    model = nn.Linear(2, 2)
    forward = compile_model(model, config, Compute(torch.device(device), None, ""))
    assert (forward is not model) == is_compiled
    assert getattr(forward, "_orig_mod", model) is model
