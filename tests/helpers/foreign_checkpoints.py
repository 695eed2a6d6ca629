"""Models and checkpoints of other programs, as small as they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

NUM_CLASSES = 7


def make_deit(name: str = "deit_tiny_distilled_patch16_224", **options: Any) -> nn.Module:
    """A model of timm whose every weight, also those that begin as 0 or 1, is random."""
    small = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32}
    torch.manual_seed(1)
    model = timm.create_model(name, **{"num_classes": NUM_CLASSES, **small, **options})
    return randomise(model)


def randomise(model: nn.Module) -> nn.Module:
    """Give every weight a value of its own; norms stay near 1, so that signals stay as large."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            elif "patch" in name and name.endswith("weight"):
                value.copy_(0.05 * noise)
            else:
                value.copy_(0.02 * noise if value.dim() == 2 and len(value) > 100 else 0.1 * noise)
    return model.eval()


def images(count: int = 3, size: int = 32) -> Tensor:
    """Normalised images."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def save_official(model: nn.Module, path: Path, **more: Any) -> Path:
    """A file as DeiT's main.py writes it."""
    torch.save({"model": model.state_dict(), **more}, path)
    return path


def to_mmpretrain_by_hand(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MMPretrain's names, by replacing words: written apart from the table under test."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("head"):
            renamed[f"head.layers.{name}"] = value
            continue
        if name.startswith("norm."):
            name = name.replace("norm.", "ln1.")
        for old, new in (
            ("blocks.", "layers."),
            ("patch_embed.proj.", "patch_embed.projection."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ):
            name = name.replace(old, new)
        renamed[f"backbone.{name}"] = value
    return renamed
