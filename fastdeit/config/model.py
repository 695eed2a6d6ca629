"""Which model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastdeit.config.rules import Effect, Rule, check


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A timm model, and how it differs from timm's defaults."""

    model: str
    """Name of a timm model; the *_distilled_* ones carry a distillation token."""
    drop_path: float = 0.0
    """Stochastic depth: how often a block's branch is left out for a sample (Table 9: 0.1)."""
    drop_path_decay: Literal["linear", "constant"] = "linear"
    """linear: from 0 at the first block to drop_path at the last (DeiT); constant: the same in all
    (DeiT-III; transformers only)."""
    drop_path_mode: Literal["mask", "subset"] = "mask"
    """mask computes every branch and drops samples afterwards (timm); subset computes the samples
    that are kept only, a fixed number of each batch (faster; transformers only)."""
    dropout: float = 0.0
    """Dropout after the position embedding, attention and MLP layers of a transformer (ViT-B: 0.1),
    before the classifier of a convnet."""
    patch_size: int | None = None
    """Side of a patch in pixels; None as in timm (transformers only)."""
    embed_dim: int | None = None
    """Width; None as in timm (transformers only)."""
    depth: int | None = None
    """Number of blocks; None as in timm (transformers only)."""
    num_heads: int | None = None
    """Attention heads; None as in timm (transformers only)."""
    reg_tokens: int | None = None
    """Learned tokens beside the class token that no head reads; None as in timm (transformers
    without a distillation token only)."""
    norm_eps: float | None = None
    """What LayerNorm adds to the variance; None as in timm (1e-6; models with LayerNorm only)."""

    def __post_init__(self) -> None:
        check(self, _RANGES, _RULES, _EFFECTS)

    @property
    def is_distilled(self) -> bool:
        """Whether the architecture has a distillation token and head."""
        return "distilled" in self.model


_RANGES = {
    "drop_path dropout": "[0, 1)",
    "patch_size embed_dim depth num_heads reg_tokens norm_eps": "(0, inf)",
}
_RULES: tuple[Rule, ...] = (
    (
        "reg_tokens",
        lambda c: c.reg_tokens is None or not c.is_distilled,
        "cannot be chosen for {0.model}, whose second token has a head",
        "Leave --reg-tokens out, or pass a model without a distillation token.",
    ),
)
_EFFECTS: tuple[Effect, ...] = (
    (
        "drop_path_decay drop_path_mode",
        lambda c: c.drop_path > 0,
        "stochastic depth",
        "Pass --drop-path 0.1, say",
    ),
)
