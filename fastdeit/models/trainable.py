"""Training a part of a model: FixRes, which takes a convnet to another resolution."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdeit.errors import UserError

SHORTCUTS = ("downsample", "shortcut")
"""What timm calls the branch of a block that carries its input past it."""


def set_trainable(model: nn.Module, trainable: Literal["all", "classifier"]) -> None:
    """Freeze what is not to be trained, and put it into evaluation mode.

    Frozen parameters get no gradient, no decay and no step; frozen layers neither draw nor move
    running averages. The model itself stays in training mode, in which a distilled one returns both
    heads.

    all leaves it alone; classifier leaves the classifiers of all heads and, where there is one, the
    last batch norm on the way to them, whose weights are trained and whose running averages follow
    the images. Raises UserError if the model has no classifier.

    Source: FixRes, arXiv:1906.06423, section 4: the resolution changes the statistics before the
    pooling, so the batch norm there and the classifier are adapted. Its published code moves the
    running averages of that batch norm and leaves its weights alone; here they are trained too.
    """
    if trainable == "all":
        return
    kept: list[nn.Module] = classifiers(model)
    norm = last_batch_norm(model)
    if norm is not None:
        kept.append(norm)
    model.requires_grad_(False)
    for module in model.modules():
        module.training = module is model
    for module in kept:
        module.requires_grad_(True)
        module.train()


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The classifiers of a timm model's heads; UserError if it has none."""
    found: Any = getattr(model, "get_classifier", tuple)()
    heads = [*found] if isinstance(found, tuple) else [found]
    if not any(True for head in heads for _ in head.parameters()):
        raise UserError(
            f"trainable classifier needs a model with one. Found: {type(model).__name__} without. "
            "Pass --trainable all."
        )
    return heads


def last_batch_norm(model: nn.Module) -> nn.Module | None:
    """The batch norm before a convnet's pooling; None in a model without batch norm."""
    # The last block may have two: that of its main branch is meant, not that of its shortcut.
    norms = [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not set(SHORTCUTS) & set(name.split("."))
    ]
    return norms[-1] if norms else None
