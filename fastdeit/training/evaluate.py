"""Accuracy and loss of every head over a validation set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdeit.augment import normalise
from fastdeit.batch import Batch
from fastdeit.machine.device import Compute
from fastdeit.machine.distributed import World
from fastdeit.models import forward_heads, head_names


@dataclass(frozen=True, slots=True)
class HeadScore:
    """How one head did."""

    top1_pct: float
    """Share of samples whose label is the first guess, 0 to 100."""
    top5_pct: float
    """Share of samples whose label is among the first five guesses, 0 to 100."""
    loss: float
    """Mean negative log-likelihood of the label."""
    real_top1_pct: float | None = None
    """Share of samples whose first guess is one of several right labels, among those that have one
    (ImageNet-ReaL); None if these labels were not given."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How each head did over a set."""

    num_images: int
    heads: dict[str, HeadScore]
    """"class"; with a distillation token also "dist" and "joint"."""

    @property
    def best_top1_pct(self) -> float:
        """That of the best head."""
        return max(head.top1_pct for head in self.heads.values())

    def to_dict(self) -> dict[str, object]:
        """As plain types for JSON."""
        heads = {
            name: {what: value for what, value in asdict(score).items() if value is not None}
            for name, score in self.heads.items()
        }
        return {"num_images": self.num_images, "heads": heads}


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    right_labels: Callable[[NDArray[np.uint64]], NDArray[np.bool_]] | None = None,
    world: World | None = None,
) -> Evaluation:
    """Score one model; see `evaluate_all`."""
    return evaluate_all([model], batches, compute, right_labels, world)[0]


@torch.no_grad()
def evaluate_all(
    models: Sequence[nn.Module],
    batches: Iterable[Batch],
    compute: Compute,
    right_labels: Callable[[NDArray[np.uint64]], NDArray[np.bool_]] | None = None,
    world: World | None = None,
) -> list[Evaluation]:
    """Score models in one pass; every sample that `batches` yields, in any process, counts once.

    Args:
        models: from `make_model`, on the device; the modes of their modules are restored.
        batches: centre crops, in any order, the last batch may be smaller.
        compute: device and precision.
        right_labels: gives (B, K) which labels are right for images with some stable keys; None
            leaves `real_top1_pct` out.
        world: the processes over which is added up; None for this one alone.

    Returns:
        One for each model, the same in every process.

    Note: sums stay on the device; they are read once, at the end.
    """
    # The last number counts the samples.
    width = 3 if right_labels is None else 5
    sums = [
        torch.zeros((len(head_names(m)), width + 1), dtype=torch.float64, device=compute.device)
        for m in models
    ]
    with _evaluating(models):
        for host_batch in batches:
            if not len(host_batch.labels):  # a process may have no share of the last step
                continue
            batch = host_batch.to(compute.device)
            images = normalise(batch.images_nhwc_u8)
            right = None
            if right_labels is not None:
                right = torch.from_numpy(right_labels(batch.sample_keys)).to(compute.device)
            for model, total in zip(models, sums, strict=True):
                with compute.autocast():
                    heads = forward_heads(model, images)
                for number, name in enumerate(head_names(model)):
                    total[number, :width] += _count(heads[name], batch.labels, right)
                total[:, width] += len(batch.labels)
    evaluations = []
    for model, total in zip(models, sums, strict=True):
        if world is not None:
            world.sum_(total)
        heads_of = dict(zip(head_names(model), total.tolist(), strict=True))
        num_images = total[0, width].item()
        evaluations.append(Evaluation(int(num_images), {n: _score(h) for n, h in heads_of.items()}))
    return evaluations


def _score(sums: list[float]) -> HeadScore:
    correct1, correct5, loss, *real, num_images = sums
    return HeadScore(
        top1_pct=100 * correct1 / num_images,
        top5_pct=100 * correct5 / num_images,
        loss=loss / num_images,
        real_top1_pct=100 * real[0] / real[1] if real else None,
    )


def _count(probs: Tensor, labels: Tensor, right: Tensor | None) -> Tensor:
    """Sums over a batch, float64: correct at 1, correct at 5, negative log-likelihood."""
    guesses = probs.topk(min(5, probs.shape[1]), dim=1).indices  # (B, 5)
    correct = guesses == labels[:, None]
    likelihood = probs.gather(1, labels[:, None]).clamp_min(1e-12)
    sums = [correct[:, 0].double().sum(), correct.double().sum(), -likelihood.double().log().sum()]
    if right is not None:
        # First guess among the right ones, samples that have any.
        sums += [right.gather(1, guesses[:, :1]).double().sum(), right.any(dim=1).double().sum()]
    return torch.stack(sums)


@contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode; whatever happens, the modes of all modules are restored."""
    # Of each module, for a part of a model may be frozen in evaluation mode.
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
