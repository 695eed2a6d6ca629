"""How far the decisions of models agree, and how alike the two tokens of a distilled one are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from fastdeit.augment import normalise
from fastdeit.batch import Batch
from fastdeit.machine.device import Compute
from fastdeit.machine.distributed import World
from fastdeit.models import forward_heads, head_names


@torch.no_grad()
def decide(
    models: Sequence[nn.Module],
    batches: Iterable[Batch],
    compute: Compute,
    keys: NDArray[np.uint64],
    world: World | None = None,
) -> NDArray[np.int32]:
    """What each head of some models decides for each image, in one pass; no logits are kept.

    Args:
        models: from `make_model`, on the device, in evaluation mode.
        batches: centre crops, in any order.
        compute: device and precision.
        keys: (N,) the stable keys of the set's images.
        world: the processes that share the images; None for this one alone.

    Returns:
        (V, N) the first guess of each head, the models' heads one after another, in the order of
        `keys`; -1 for an image that no process saw. The same in every process.
    """
    order = np.argsort(keys)
    sorted_keys = keys[order]
    num_heads = sum(len(head_names(model)) for model in models)
    # One more than the decision, so that what a process did not see adds nothing to the sum.
    found = np.zeros((num_heads, len(keys)), np.int32)
    for host_batch in batches:
        if not len(host_batch.labels):  # a process may have no share of the last step
            continue
        images = normalise(host_batch.to(compute.device).images_nhwc_u8)
        guesses = []
        for model in models:
            with compute.autocast():
                heads = forward_heads(model, images)
            guesses += [heads[name].argmax(1) for name in head_names(model)]
        places = order[np.searchsorted(sorted_keys, host_batch.sample_keys)]
        # Waits for the device, as whoever reads decisions must.
        found[:, places] = (torch.stack(guesses) + 1).int().cpu().numpy()
    if world is not None:
        found = world.sum_on_host(torch.from_numpy(found)).numpy()
    return found - 1


def disagreement(decisions: NDArray[np.integer]) -> NDArray[np.float64]:
    """The fraction of images on which each two decide differently.

    Args:
        decisions: (V, N) class numbers, N at least 1.

    Returns:
        (V, V), symmetric, 0 to 1, with zeros on the diagonal.

    Source: paper section 5.2, Table 4.
    """
    return np.stack([(decisions != one).mean(axis=1) for one in decisions])


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines between the class and the distillation token of a model."""

    learned: float
    """Of the learned tokens."""
    names: tuple[str, ...]
    """Where the embeddings were taken: "input" (the tokens with their position embeddings),
    "block 1" and on, and "norm", after the final normalisation, which the heads read."""
    means: tuple[float, ...]
    """Mean over the images at each of these."""
    deviations: tuple[float, ...]
    """Standard deviation over the images at each of these."""
    num_images: int
    """How many images there were."""

    @property
    def last(self) -> float:
        """The mean after the last block."""
        return self.means[-2]


@torch.no_grad()
def token_cosines(
    model: VisionTransformerDistilled,
    batches: Iterable[Batch],
    compute: Compute,
    world: World | None = None,
) -> Cosines:
    """Compare the two tokens of a distilled model, as learned and on their way through it.

    Args:
        model: from `make_model`, on the device, in evaluation mode.
        batches: centre crops, in any order; each image counts once.
        compute: device and precision; cosines are taken in float32.
        world: the processes that share the images; None for this one alone.

    Returns:
        The same in every process.

    Source: paper section 4, "Distillation token": 0.06 for the learned tokens, 0.93 at the last
        layer.
    """
    names = ("input", *(f"block {n + 1}" for n in range(len(model.blocks))), "norm")
    # Sum of the cosines, of their squares, and how many; read once, at the end.
    sums = torch.zeros((len(names), 3), dtype=torch.float64, device=compute.device)

    def add(place: int, tokens: Tensor) -> None:
        cosines = F.cosine_similarity(tokens[:, 0].float(), tokens[:, 1].float(), dim=1).double()
        count = torch.full_like(cosines[:1], len(cosines)).squeeze()
        sums[place] += torch.stack((cosines.sum(), cosines.square().sum(), count))

    def hook(place: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: add(place, output)

    hooks = [model.norm_pre.register_forward_hook(hook(0))]
    layers = (*model.blocks, model.norm)
    hooks += [each.register_forward_hook(hook(n + 1)) for n, each in enumerate(layers)]
    try:
        for batch in batches:
            if len(batch.labels):  # a process may have no share of the last step
                with compute.autocast():
                    model.forward_features(normalise(batch.to(compute.device).images_nhwc_u8))
    finally:
        for each in hooks:
            each.remove()
    if world is not None:
        world.sum_(sums)
    total, squares, count = sums.cpu().unbind(1)
    means = total / count
    deviations = (squares / count - means.square()).clamp_min(0).sqrt()
    assert model.cls_token is not None  # timm's class has both
    learned = F.cosine_similarity(model.cls_token.flatten(), model.dist_token.flatten(), dim=0)
    return Cosines(
        learned=float(learned),
        names=names,
        means=tuple(means.tolist()),
        deviations=tuple(deviations.tolist()),
        num_images=int(count[0]),
    )
