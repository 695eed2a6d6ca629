"""Models come from timm; here they are made, and all their heads are read."""

from __future__ import annotations

from typing import cast

import timm
import torch
from timm.layers import PatchEmbed, trunc_normal_
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fastdeit.config import ModelConfig
from fastdeit.errors import UserError
from fastdeit.models.options import check_effect, set_norm_eps, timm_options
from fastdeit.models.stochastic_depth import set_constant_rate


def make_model(config: ModelConfig, num_classes: int, image_size: int, seed: int = 0) -> nn.Module:
    """Build a timm model with fresh weights; its transformers get those that DeiT begins with.

    Args:
        config: which model.
        num_classes: outputs of each head.
        image_size: side of the input in pixels.
        seed: of the initial weights; torch's global generator is left as it was.

    Returns:
        The model in float32, on the CPU.

    Raises:
        UserError: timm does not know the name, or the model does not take one of the options.

    Source: paper section 6, "Initialization"; deit models.py. timm differs in the class token
    (normal, 1e-6) and in DeiT-III's LayerScale (1e-6, where the published code has 1e-4).
    """
    if not timm.is_model(config.model):
        near = timm.list_models(f"*{config.model.split('_')[0]}*")[:4]
        raise UserError(
            f"model is not one of timm {timm.__version__}. Found: {config.model}. "
            f"Near it: {', '.join(near) or 'nothing'}."
        )
    with torch.random.fork_rng(devices=[]):
        options = timm_options(config, image_size)
        torch.manual_seed(seed)
        try:
            model = timm.create_model(config.model, num_classes=num_classes, **options)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(
                f"model {config.model} cannot be built with these options. "
                f"Found: {options}. timm says: {reason}. Change that option."
            ) from error
        if isinstance(model, VisionTransformer) and model.cls_token is not None:
            trunc_normal_(model.cls_token, std=0.02)
    if config.drop_path_decay == "constant":
        set_constant_rate(model.blocks, config.drop_path)
    if config.norm_eps is not None:
        set_norm_eps(model, config.norm_eps, config.model)
    check_effect(config, model)

    embed = getattr(model, "patch_embed", None)  # patches that overlap are of other classes
    patch = embed.patch_size[0] if isinstance(embed, PatchEmbed) else 1
    if image_size % patch:
        raise UserError(
            f"image_size must be a multiple of the patch's side ({patch}). Found: {image_size}. "
            f"Pass --image-size {max(patch, image_size // patch * patch)}, say."
        )
    return model


def forward_train(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits for training, of (B, 3, H, W) float, normalised.

    Returns:
        (class logits (B, K), distillation logits (B, K) or None without a distillation head).
    """
    output = model(images)
    return output if isinstance(output, tuple) else (output, None)


def set_distilled_training(model: nn.Module, enable: bool = True) -> None:
    """Make a distilled model return both heads in training mode; others are left alone."""
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(enable)


def forward_heads(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Probabilities of every head, for evaluation.

    Args:
        model: from `make_model`, in evaluation mode.
        images: (B, 3, H, W) float, normalised.

    Returns:
        "class" (B, K) float32; with a distillation token also "dist", and "joint", the mean of the
        two softmax outputs.

    Source: paper section 4, "Classification with our approach: joint classifiers"; timm's
    VisionTransformerDistilled.forward_head differs by averaging logits.
    """
    if not isinstance(model, VisionTransformerDistilled):
        return {"class": model(images).float().softmax(-1)}
    tokens = model.forward_features(images)  # (B, N, D): class token, distillation token, patches
    by_class = model.head(tokens[:, 0]).float().softmax(-1)
    by_dist = cast(Tensor, model.head_dist(tokens[:, 1])).float().softmax(-1)
    return {"class": by_class, "dist": by_dist, "joint": (by_class + by_dist) / 2}


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The heads that `forward_heads` reads of a model."""
    return (
        ("class", "dist", "joint") if isinstance(model, VisionTransformerDistilled) else ("class",)
    )


def num_parameters(model: nn.Module) -> int:
    """How many numbers the parameters of a model have, frozen ones counted."""
    return sum(p.numel() for p in model.parameters())
