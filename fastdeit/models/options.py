"""What a ModelConfig means for a timm model: each option acts, or is refused.

timm's models do not take the same options, and some swallow those that they do not know. So a
model's class is asked what it takes, and the finished model whether it has what was asked for.
"""

from __future__ import annotations

import inspect
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from fastdeit.config import ModelConfig
from fastdeit.errors import require
from fastdeit.models.stochastic_depth import SubsetBlock, drop_rate

DEIT3_LAYER_SCALE = 1e-4
"""What the published code of DeiT-III begins with; timm begins with 1e-6."""


def timm_options(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """The arguments of `timm.create_model` beside the name and the classes.

    Only models built for one size are told the image size. Raises UserError if the model does not
    take one of the options.
    """
    name = config.model
    plain = plain_model(name)
    taken = accepted_options(type(plain))
    options: dict[str, Any] = {"img_size": image_size} if "img_size" in taken else {}
    for option in ("patch_size", "embed_dim", "depth", "num_heads", "reg_tokens"):
        value = getattr(config, option)
        if value is not None:
            require(
                option in taken,
                option,
                value,
                f"cannot be chosen for {name}",
                f"Leave --{option.replace('_', '-')} out, or pass another --model.",
            )
            options[option] = value
    if name.startswith("deit3"):
        options["init_values"] = DEIT3_LAYER_SCALE
    if "drop_path_rate" in taken:
        options["drop_path_rate"] = config.drop_path
    if config.dropout > 0:
        # What was one rate for all dense layers when DeiT was written has two names in timm now.
        is_transformer = any(option.startswith("embed_dim") for option in taken)
        inside = taken & {"pos_drop_rate", "proj_drop_rate"} if is_transformer else None
        for option in inside or taken & {"drop_rate"}:
            options[option] = config.dropout
    for option, value, default in (
        ("drop_path_decay", config.drop_path_decay, "linear"),
        ("drop_path_mode", config.drop_path_mode, "mask"),
    ):
        require(
            value == default or _has_plain_blocks(plain),
            option,
            value,
            f"needs the plain blocks of timm's VisionTransformer, which {name} has not",
            f"Pass --{option.replace('_', '-')} {default}, or a deit or vit as --model.",
        )
    if config.drop_path_mode == "subset":
        options["block_fn"] = SubsetBlock
    return options


def set_norm_eps(model: nn.Module, eps: float, name: str) -> None:
    """Let every LayerNorm of a model add `eps` to the variance; UserError if it has none."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.LayerNorm)]
    require(
        bool(layers),
        "norm_eps",
        eps,
        f"cannot be chosen for {name}, which has no LayerNorm",
        "Leave --norm-eps out, or pass another --model.",
    )
    for layer in layers:
        layer.eps = eps


def plain_model(name: str) -> nn.Module:
    """A timm model as it is without options, without weights where it can be built so."""
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except (RuntimeError, NotImplementedError):  # it computes with weights while it is built
        return timm.create_model(name)


def accepted_options(kind: type[nn.Module]) -> frozenset[str]:
    """The names that a model's class takes, with those that it hands on to its base."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module:
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            names |= parameters.keys()
            if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                break
    return frozenset(names)


def _has_plain_blocks(model: nn.Module) -> bool:
    """Whether a model is made of timm's `Block`, and not of one of its relatives."""
    if not isinstance(model, VisionTransformer):
        return False
    return all(type(block) is Block for block in model.blocks)


def check_effect(config: ModelConfig, model: nn.Module) -> None:
    """Raise UserError for a model that should have stochastic depth or dropout, and has none."""
    layers = list(model.modules())
    require(
        config.drop_path == 0 or any(drop_rate(layer) > 0 for layer in layers),
        "drop_path",
        config.drop_path,
        f"has no effect in {config.model} as timm builds it",
        "Pass --drop-path 0, or another --model.",
    )
    has_dropout = getattr(model, "drop_rate", 0.0) == config.dropout or any(
        isinstance(layer, nn.Dropout) and layer.p > 0 for layer in layers
    )
    require(
        config.dropout == 0 or has_dropout,
        "dropout",
        config.dropout,
        f"has no effect in {config.model} as timm builds it",
        "Pass --dropout 0, or another --model.",
    )
