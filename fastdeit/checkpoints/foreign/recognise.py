"""Which model some weights are of, from their shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fastdeit.checkpoints.foreign.translate import first_few
from fastdeit.config import ModelConfig
from fastdeit.errors import UserError, require
from fastdeit.models import make_model
from fastdeit.models.options import plain_model

HEAD_WIDTH = 64
"""Columns of an attention head in every published DeiT but DeiT-III's H."""
DEIT = {(192, 12): ("tiny", 3), (384, 12): ("small", 6), (768, 12): ("base", 12)}
"""Name and attention heads by (width, blocks)."""
DEIT3 = {
    (384, 12): ("small", 6),
    (512, 12): ("medium", 8),
    (768, 12): ("base", 12),
    (1024, 24): ("large", 16),
    (1280, 32): ("huge", 16),
}
"""The same of DeiT-III."""
TRANSFORMER = frozenset(("cls_token", "pos_embed", "patch_embed.proj.weight"))


@dataclass(frozen=True, slots=True)
class Recognised:
    """A model that weights are of."""

    config: ModelConfig
    image_size: int
    """Side of its input in pixels."""
    num_classes: int
    notes: tuple[str, ...] = ()
    """What was taken for granted."""


def recognise(
    state: Mapping[str, Tensor],
    model: str | None = None,
    num_heads: int | None = None,
    norm_eps: float | None = None,
) -> Recognised:
    """Find the model of some weights.

    Args:
        state: under our names.
        model: timm's name of it; None finds DeiT, DeiT-III and ViT by their shapes.
        num_heads: attention heads, which no shape tells; None takes the published number for the
            width, else a head for each 64 columns.
        norm_eps: what its LayerNorms add to the variance; None takes timm's.

    Raises:
        UserError: it cannot be found, or timm does not know the name.
    """
    if model is not None and not timm.is_model(model):
        raise UserError(
            f"model is not one of timm {timm.__version__}. Found: {model}. "
            "Give a name of timm.list_models()."
        )
    named = None if model is None else plain_model(model)
    if state.keys() >= TRANSFORMER and (named is None or isinstance(named, VisionTransformer)):
        return _recognise_transformer(state, model, named, num_heads, norm_eps)
    if named is None:
        lacking = sorted(TRANSFORMER - state.keys())
        raise UserError(
            f"model can be found for DeiT and ViT alone. Found: no {first_few(lacking)}. "
            "Pass --model with timm's name."
        )
    for name, value in (("num_heads", num_heads), ("norm_eps", norm_eps)):
        require(
            value is None,
            name,
            value,
            f"cannot be chosen for {model}",
            f"Leave --{name.replace('_', '-')} out.",
        )
    settings: Any = named.pretrained_cfg
    classifier = settings["classifier"]
    first = classifier if isinstance(classifier, str) else classifier[0]
    num_classes = len(_need(state, f"{first}.weight", str(model)))
    return Recognised(ModelConfig(model=str(model)), settings["input_size"][-1], num_classes)


def _recognise_transformer(
    state: Mapping[str, Tensor],
    model: str | None,
    named: VisionTransformer | None,
    num_heads: int | None,
    norm_eps: float | None,
) -> Recognised:
    notes = []
    positions, patches = state["pos_embed"], state["patch_embed.proj.weight"]
    for name, value, num_axes in (("pos_embed", positions, 3), ("patch_embed", patches, 4)):
        if value.dim() != num_axes:
            raise UserError(
                f"{name} must have {num_axes} axes. Found: {tuple(value.shape)}. "
                "Give weights of a DeiT or ViT."
            )
    width, patch = patches.shape[0], patches.shape[-1]
    blocks = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    depth = len(blocks)
    is_distilled, is_deit3 = "dist_token" in state, "blocks.0.ls1.gamma" in state
    num_registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    known = (DEIT3 if is_deit3 else DEIT).get((width, depth))
    # DeiT-III adds position embeddings before the class token comes.
    is_after = named.no_embed_class if named is not None else is_deit3
    num_positions = positions.shape[1]
    if not is_after:
        num_positions -= 1 + is_distilled + num_registers
    side = math.isqrt(max(0, num_positions))
    if side * side != num_positions or not side:
        raise UserError(
            f"position embeddings must lie on a square. Found: {num_positions} of patches "
            f"(of {positions.shape[1]}). Give weights of a square model."
        )
    image_size = side * patch
    if named is None:
        model = _name_of(known, is_distilled, is_deit3, image_size)
        named = plain_model(model)  # type: ignore[assignment]
    assert named is not None
    assert model is not None
    plain: Any = named
    if num_heads is None:
        if plain.embed_dim == width:
            num_heads = plain.blocks[0].attn.num_heads
        elif known is not None:
            num_heads = known[1]
        elif width % HEAD_WIDTH == 0:
            num_heads = width // HEAD_WIDTH
            notes.append(f"{num_heads} attention heads are taken, {HEAD_WIDTH} wide each")
        else:
            raise UserError(
                f"num_heads must be given where heads are not {HEAD_WIDTH} wide. Found: width "
                f"{width}. Pass --num-heads."
            )
    require(
        num_heads > 0 and width % num_heads == 0,
        "num_heads",
        num_heads,
        f"must divide the width ({width})",
        "Pass another --num-heads.",
    )
    config = ModelConfig(
        model=model,
        patch_size=_unless(patch, plain.patch_embed.patch_size[0]),
        embed_dim=_unless(width, plain.embed_dim),
        depth=_unless(depth, len(plain.blocks)),
        num_heads=_unless(num_heads, plain.blocks[0].attn.num_heads),
        reg_tokens=_unless(num_registers, plain.num_reg_tokens),
        norm_eps=None if norm_eps in (None, plain.norm.eps) else norm_eps,
    )
    return Recognised(config, image_size, len(_need(state, "head.weight", model)), tuple(notes))


def fill_model(state: Mapping[str, Tensor], found: Recognised) -> nn.Module:
    """Build a model and give it the weights: all of it, and all of them.

    It is in evaluation mode, in float32 on the CPU. Raises UserError if a weight is missing, too
    many, of another shape, or not finite.
    """
    config = found.config
    model = make_model(config, found.num_classes, found.image_size)
    target: dict[str, Tensor] = model.state_dict()
    faults = [f"no {name}" for name in target if name not in state]
    faults += [f"{name} too many" for name in state if name not in target]
    faults += [
        f"{name} {tuple(value.shape)} instead of {tuple(target[name].shape)}"
        for name, value in state.items()
        if name in target and value.shape != target[name].shape
    ]
    faults += [
        f"{name} with {int((~value.isfinite()).sum())} numbers that are not finite"
        for name, value in state.items()
        if not value.isfinite().all()
    ]
    if faults:
        raise UserError(
            f"weights must fill {config.model} exactly. Found: {first_few(faults)}. "
            "Pass the --model that they are of, or a file that is whole."
        )
    model.load_state_dict(dict(state))
    return model.eval()


def _name_of(
    known: tuple[str, int] | None, is_distilled: bool, is_deit3: bool, image_size: int
) -> str:
    """Timm's name of the nearest model; what is left is in the options."""
    size = "base" if known is None else known[0]
    stem = f"deit3_{size}" if is_deit3 else f"deit_{size}{'_distilled' * is_distilled}"
    stem += "_patch14" if is_deit3 and size == "huge" else "_patch16"
    exact = f"{stem}_{image_size}"
    return exact if timm.is_model(exact) else f"{stem}_224"


def _unless(value: int, default: int) -> int | None:
    """A value, or None if it is what timm has."""
    return None if value == default else value


def _need(state: Mapping[str, Tensor], name: str, model: str) -> Tensor:
    if name not in state:
        raise UserError(
            f"weights must hold the classifier of {model}. Found: no {name}, but "
            f"{first_few(state)}. Pass the --model that they are of, or a file with a classifier."
        )
    return state[name]
