"""Accuracy and loss of every head over a validation set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from fastdeit.augment import normalise
from fastdeit.batch import Batch
from fastdeit.device import Compute
from fastdeit.models import forward_heads


@dataclass(frozen=True, slots=True)
class HeadScore:
    """How one head did."""

    top1_pct: float
    """Share of samples whose label is the first guess, 0 to 100."""
    top5_pct: float
    """Share of samples whose label is among the first five guesses, 0 to 100."""
    loss: float
    """Mean negative log-likelihood of the label."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How each head did over a set."""

    num_images: int
    """How many samples were counted."""
    heads: dict[str, HeadScore]
    """"class"; with a distillation token also "dist" and "joint"."""

    def to_dict(self) -> dict[str, object]:
        """As plain types for JSON."""
        heads = {name: asdict(score) for name, score in self.heads.items()}
        return {"num_images": self.num_images, "heads": heads}


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], compute: Compute) -> Evaluation:
    """Score a model; every sample that `batches` yields counts once.

    Args:
        model: from `make_model`, on the device; its mode is restored afterwards.
        batches: centre crops, in any order, the last batch may be smaller.
        compute: device and precision.

    Note: sums stay on the device; they are read once, at the end.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    num_images = 0
    for host_batch in batches:
        batch = host_batch.to(compute.device)
        with compute.autocast():
            heads = forward_heads(model, normalise(batch.images_nhwc_u8))
        for name, probs in heads.items():
            counted = _count(probs, batch.labels)
            sums[name] = sums[name] + counted if name in sums else counted
        num_images += len(batch.labels)
    model.train(was_training)
    scores = {}
    for name, total in sums.items():
        top1, top5, loss = (total / num_images).tolist()
        scores[name] = HeadScore(100 * top1, 100 * top5, loss)
    return Evaluation(num_images, scores)


def _count(probs: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch: correct at 1, correct at 5, negative log-likelihood; (3,) float64."""
    guesses = probs.topk(min(5, probs.shape[1]), dim=1).indices  # (B, 5)
    correct = guesses == labels[:, None]
    likelihood = probs.gather(1, labels[:, None]).clamp_min(1e-12)
    return torch.stack(
        [correct[:, 0].double().sum(), correct.double().sum(), -likelihood.double().log().sum()]
    )
