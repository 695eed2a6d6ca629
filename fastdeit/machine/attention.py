"""Which implementation of attention a run takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastdeit.errors import UserError, require
from fastdeit.machine.device import Compute

TOKENS = 197
"""Of a ViT at 224 pixels."""


def choose_attention(name: str, model: nn.Module, compute: Compute) -> Compute:
    """Let the attention of a run be computed by one implementation.

    auto leaves it as it was in `compute`. Raises UserError if the model has no attention, or the
    implementation cannot do it there.
    """
    if name == "auto":
        return compute
    layers: list[Any] = [each for each in model.modules() if getattr(each, "fused_attn", False)]
    require(
        bool(layers),
        "attention",
        name,
        "has no effect on a model without (fused) attention",
        "Leave out --attention.",
    )
    chosen = replace(compute, attention=name)
    # Tried at once, in both directions: in a step it would fail after the data was opened.
    heads, width = layers[0].num_heads, layers[0].head_dim
    tokens = torch.zeros(1, heads, TOKENS, width, device=compute.device, requires_grad=True)
    dtype = compute.autocast_dtype or torch.float32
    try:
        with chosen.autocast():
            query = tokens.to(dtype)
            F.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError as error:
        raise UserError(
            f"attention must be one that {compute.device} can do in {dtype} at {width} numbers a "
            f"head. Found: {name}: {_first_sentence(error)}. Leave out --attention."
        ) from error
    return chosen


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]
