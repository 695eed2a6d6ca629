"""Stochastic depth that computes only what it keeps, and rates that do not grow with the depth.

timm's DropPath computes a branch for every sample and then zeroes it for some. `SubsetBlock`
chooses samples first, so that a rate of p saves about p of the block's work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class SubsetBlock(Block):
    """timm's Block, whose branches are computed for a random subset of the batch in training.

    In evaluation, and where the rate is 0, it computes what timm's does, to the bit. Parameters
    have the same names. Each branch draws its own subset, from torch's global generator of the
    device, and never waits for it.

    Source: DINOv2 (arXiv:2304.07193) section 5, "Efficient stochastic depth". The number kept is
    fixed for a batch, so the rate is that to within one sample.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Add both branches to `x` (B, N, D); with a mask, timm's own way of dropping is taken."""
        if not self.training or attn_mask is not None:
            return super().forward(x, attn_mask, is_causal)

        def attention(rows: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(rows), is_causal=is_causal))  # type: ignore[no-any-return]

        def mlp(rows: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(rows)))  # type: ignore[no-any-return]

        x = add_for_subset(x, attention, drop_rate(self.drop_path1))
        return add_for_subset(x, mlp, drop_rate(self.drop_path2))


def drop_rate(layer: nn.Module) -> float:
    """The rate of a block's DropPath; 0 where timm put an Identity."""
    return float(layer.drop_prob) if isinstance(layer, DropPath) else 0.0


def num_kept(batch: int, rate: float) -> int:
    """How many samples of a batch a branch is computed for: at least one."""
    # Rates are rounded numbers: 10 x (1 - 0.9) is not to be 0.
    return max(1, int(batch * (1 - rate) + 1e-6))


def add_for_subset(x: Tensor, branch: Callable[[Tensor], Tensor], rate: float) -> Tensor:
    """Add a residual branch for a random subset of the samples, scaled to the same expectation."""
    batch = x.shape[0]
    kept = num_kept(batch, rate)
    if kept == batch:
        return x + branch(x)
    # Sorting noise stays on the device; the rows are distinct, so adding has one order and the
    # same bits in every run.
    rows = torch.rand(batch, device=x.device).argsort()[:kept]
    update = branch(x.index_select(0, rows))
    # As `x + branch(x)` has it.
    dtype = torch.promote_types(x.dtype, update.dtype)
    return x.to(dtype).index_add(0, rows, update.to(dtype), alpha=batch / kept)


def set_constant_rate(blocks: Any, rate: float) -> None:
    """Give every one of timm's Blocks the same rate of stochastic depth, above 0 and below 1.

    With timm's linear rates the first has none at all. Source: DeiT-III (arXiv:2204.07118)
    models_v2.py.
    """
    for block in blocks:
        block.drop_path1 = DropPath(rate)
        block.drop_path2 = DropPath(rate)
