"""Beginning with the weights of a checkpoint: another resolution, other classes, one more token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdeit.checkpoints.classes import Classes, Located, locate, read_classes
from fastdeit.errors import UserError
from fastdeit.models.options import plain_model

POS_EMBED = "pos_embed"
DIST_TOKEN = "dist_token"
PATCHES = "patch_embed.proj.weight"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What became of a checkpoint's weights."""

    num_loaded: int
    """Parameters and buffers taken over, resized ones counted."""
    begun_anew: tuple[str, ...]
    """Parameters that keep their fresh values, or a part of them: heads, distillation token."""
    grids: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Patches down and across, before and after, where position embeddings were resized."""
    norm_factor: float = 1.0
    """By what resized position embeddings were multiplied to keep their mean norm."""
    note: str = ""
    """What its classes were taken for, if that does not go without saying."""

    def __str__(self) -> str:
        text = f"{self.num_loaded} tensors taken over"
        if self.grids is not None:
            (old_h, old_w), (new_h, new_w) = self.grids
            text += (
                f"; position embeddings resized from {old_h} x {old_w} to {new_h} x {new_w} "
                f"patches, times {self.norm_factor:.4f}"
            )
        if self.note:
            text += f"; {self.note}"
        return text + f"; begun anew: {', '.join(self.begun_anew) or 'nothing'}"


def initialise_from(
    model: nn.Module,
    content: dict[str, Any],
    classes: Classes,
    weights: Literal["raw", "ema"] = "raw",
) -> Initialised:
    """Put a checkpoint's weights into a model, for fine-tuning.

    Position embeddings are resized for another resolution; heads for other classes and, in a
    checkpoint without distillation, the distillation token and its head keep their fresh values.
    A head for the same classes in another order is put into ours. The model is changed only if all
    of it fits.

    Args:
        model: fresh, from `make_model`; any device.
        content: from `load_checkpoint`.
        classes: one for each output of the model.
        weights: raw, as they were trained, or ema, their moving average.

    Raises:
        UserError: the checkpoint is of another architecture, or holds no average.

    Source: paper section 6, "Fine-tuning at different resolution"; deit main.py (--finetune).
    Differs by taking the mean norm back to what it was, which cubic interpolation only
    "approximately preserves", and by an error where upstream drops what does not fit.
    """
    state = content["model" if weights == "raw" else "ema"]
    if state is None:
        raise UserError(
            "the checkpoint must hold averaged weights. Found: none; imports and runs with "
            "--ema-decay 0 keep none. Take the raw ones."
        )
    target: dict[str, Tensor] = model.state_dict()
    given: dict[str, Tensor] = dict(state)
    anew: list[str] = []

    located = locate(classes, read_classes(content))
    gains_token = DIST_TOKEN in target and DIST_TOKEN not in given
    heads = head_names(model)
    for name in target:
        is_dist = name == DIST_TOKEN or name.startswith("head_dist.")
        if (name in heads and located is None) or (gains_token and is_dist):
            given.pop(name, None)
            anew.append(name)

    if located is not None and not located.is_in_order:
        given |= _rows_of_classes(model, given, torch.tensor(located.numbers))

    grids, factor = None, 1.0
    new_grid = grid_of(model)
    if new_grid is not None and {POS_EMBED, PATCHES} <= given.keys() & target.keys():
        patch = given[PATCHES].shape[-2:]
        old_grid = content["image_size"] // patch[0], content["image_size"] // patch[1]
        new_slots = target[POS_EMBED].shape[1] - math.prod(new_grid)
        slots = given[POS_EMBED][:, : given[POS_EMBED].shape[1] - math.prod(old_grid)]
        positions = given[POS_EMBED][:, slots.shape[1] :]
        if gains_token and slots.shape[1] == new_slots - 1:
            # The token's place is the last of them; its embedding begins as the model made it.
            fresh = target[POS_EMBED][:, new_slots - 1 : new_slots]
            slots = torch.cat((slots, fresh.to(slots)), 1)
            anew.append(f"{POS_EMBED} of {DIST_TOKEN}")
        if old_grid != new_grid:
            positions, factor = resize_positions(positions, old_grid, new_grid)
            grids = old_grid, new_grid
        given[POS_EMBED] = torch.cat((slots, positions), 1)

    _check_fit(given, target, frozenset(anew), content["model_config"]["model"])
    _check_heads(model, content["model_config"])
    model.load_state_dict(given, strict=False)
    note = "" if located is None else located.explain("the training set")
    return Initialised(len(given), tuple(anew), grids, factor, note)


def resize_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> tuple[Tensor, float]:
    """(1, H * W, D) of patches' (1, h * w, D), and by what they were multiplied afterwards."""
    height, width = old_grid
    image = positions.float().reshape(1, height, width, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    resized = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
    resized = resized.flatten(2).transpose(1, 2)  # (1, H * W, D)
    before, after = positions.float().norm(dim=2).mean(), resized.norm(dim=2).mean()
    # The mean of their norms is kept.
    factor = float(before / after) if after > 0 else 1.0
    return (resized * factor).to(positions.dtype), factor


def head_names(model: nn.Module) -> frozenset[str]:
    """The names of the parameters of a timm model's classifiers."""
    parameters = {id(p) for head in _classifiers(model) for p in head.parameters()}
    return frozenset(name for name, p in model.named_parameters() if id(p) in parameters)


def _classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    classifier: Any = getattr(model, "get_classifier", tuple)()
    return classifier if isinstance(classifier, tuple) else (classifier,)


def _rows_of_classes(model: nn.Module, given: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The classifiers' weights among some, with their rows as the model's classes stand."""
    return {
        name: given[name][rows]
        for name in head_names(model) & given.keys()
        if isinstance(model.get_submodule(name.rpartition(".")[0]), (nn.Linear, nn.Conv2d))
    }


def take_classes(model: nn.Module, located: Located) -> None:
    """Let a model give the logits of the classes that were located in its own, and in their order.

    They are those of some of its classes, or all; its weights stay as they are.
    """
    if located.is_in_order:
        return

    def pick(classifier: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
        return logits.index_select(1, cast(Tensor, classifier.columns))

    for classifier in _classifiers(model):
        # A buffer goes to the model's device with it.
        classifier.register_buffer("columns", torch.tensor(located.numbers), persistent=False)
        classifier.register_forward_hook(pick)


def grid_of(model: nn.Module) -> tuple[int, int] | None:
    """How many patches a timm transformer has down and across; None for other models."""
    grid: tuple[int, int] | None = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    return grid


def num_heads(model: nn.Module) -> int | None:
    """Attention heads of a transformer; None for another model."""
    blocks: Any = getattr(model, "blocks", None)
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None


def _check_heads(model: nn.Module, source: dict[str, Any]) -> None:
    """Refuse weights of another number of attention heads, which shows in no shape."""
    ours, theirs = num_heads(model), source.get("num_heads")
    if ours is None:
        return
    if theirs is None:
        theirs = num_heads(plain_model(source["model"]))
    if theirs not in (None, ours):
        raise UserError(
            f"init_from must hold weights of the same architecture. Found: {theirs} attention "
            f"heads instead of {ours}, in a checkpoint of {source['model']}. "
            f"Pass --num-heads {theirs}."
        )


def _check_fit(
    given: dict[str, Tensor], target: dict[str, Tensor], anew: frozenset[str], source: str
) -> None:
    faults = [f"no {name}" for name in target if name not in given and name not in anew]
    faults += [f"{name} too many" for name in given if name not in target]
    faults += [
        f"{name} {tuple(value.shape)} instead of {tuple(target[name].shape)}"
        for name, value in given.items()
        if name in target and value.shape != target[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            "init_from must hold weights of the same architecture. Found: "
            f"{'; '.join(faults[:3])}{more}, in a checkpoint of {source}. "
            "Give another --init-from, or the --model that it was trained as."
        )
