"""The exponential moving average of a model's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class ModelEma:
    """A copy of a model that follows its weights slowly.

    Source: timm utils/model_ema.py:ModelEma, as DeiT uses it: every entry of the state, buffers
    included, after every optimiser step, without a warm-up. Differs: whole numbers, such as batch
    norm's counter, are copied; timm averages and truncates them.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights of `model`, which has no wrapper of torch.compile, on its device.

        `decay` is how much of the average an update keeps, from 0 to 1.
        """
        self.decay = decay
        self.module = deepcopy(model).eval().requires_grad_(False)
        """The averaged model, in evaluation mode."""
        live, averaged = model.state_dict(), self.module.state_dict()
        self._live: list[Tensor] = []
        self._averaged: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        for name, value in averaged.items():
            if value.is_floating_point():
                self._averaged.append(value)
                self._live.append(live[name])
            else:
                self._copied.append((value, live[name]))

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model: one pass over all weights, no waiting for the device."""
        torch._foreach_lerp_(self._averaged, self._live, 1 - self.decay)
        for averaged, live in self._copied:
            averaged.copy_(live)
