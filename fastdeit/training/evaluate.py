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
    macro_top1_pct: float | None = None
    """Mean over the classes of each one's top-1, without those that have no sample; None if it was
    not counted by class."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How K classes did."""

    total: NDArray[np.int64]
    """(K,) samples of each class."""
    correct: dict[str, NDArray[np.int64]]
    """By the head, (K,) those whose first guess was right."""
    confusion: NDArray[np.int64] | None
    """(K, K) samples by their class and the first guess of the last head; None if not wanted."""

    def macro_top1_pct(self, head: str) -> float:
        """Mean of the classes' top-1, of those that have a sample, 0 to 100."""
        has = self.total > 0
        return float(100 * (self.correct[head][has] / self.total[has]).mean())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How each head did over a set."""

    num_images: int
    heads: dict[str, HeadScore]
    """"class"; with a distillation token also "dist" and "joint"."""
    classes: ClassCounts | None = None
    """The same by class, if it was asked for; not in `to_dict`."""

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
    num_classes: int | None = None,
    with_confusion: bool = False,
) -> list[Evaluation]:
    """Score models in one pass; every sample that `batches` yields, in any process, counts once.

    Args:
        models: from `make_model`, on the device; the modes of their modules are restored.
        batches: centre crops, in any order, the last batch may be smaller.
        compute: device and precision.
        right_labels: gives (B, K) which labels are right for images with some stable keys; None
            leaves `real_top1_pct` out.
        world: the processes over which is added up; None for this one alone.
        num_classes: K, to count by class too; None leaves that out.
        with_confusion: count which class is taken for which, too: K x K numbers on the device.

    Returns:
        One for each model, the same in every process.

    Note: sums stay on the device; they are read once, at the end.
    """
    tallies = [
        _Tally(head_names(m), right_labels is not None, num_classes, with_confusion, compute.device)
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
            for model, tally in zip(models, tallies, strict=True):
                with compute.autocast():
                    heads = forward_heads(model, images)
                tally.add(heads, batch.labels, right)
    return [tally.evaluation(world or World()) for tally in tallies]


class _Tally:
    """Sums of one model over the samples, on the device."""

    def __init__(
        self,
        heads: tuple[str, ...],
        with_real: bool,
        num_classes: int | None,
        with_confusion: bool,
        device: torch.device,
    ) -> None:
        self._heads = heads
        # The last number counts the samples.
        size = (len(heads), 6 if with_real else 4)
        self._sums = torch.zeros(size, dtype=torch.float64, device=device)
        # Rows: correct by each head, and all samples.
        by_class = (len(heads) + 1, num_classes or 0)
        self._by_class = torch.zeros(by_class, dtype=torch.int64, device=device)
        side = num_classes if with_confusion and num_classes else 0
        self._confusion = torch.zeros((side, side), dtype=torch.int64, device=device)

    def add(self, heads: dict[str, Tensor], labels: Tensor, right: Tensor | None) -> None:
        """Count a batch: probabilities (B, K) of each head."""
        for number, name in enumerate(self._heads):
            probs = heads[name]
            guesses = probs.topk(min(5, probs.shape[1]), dim=1).indices  # (B, 5)
            self._sums[number, :-1] += _count(probs, guesses, labels, right)
            self._sums[number, -1] += len(labels)
            if self._by_class.numel():
                self._by_class[number].index_add_(0, labels, (guesses[:, 0] == labels).long())
        ones = torch.ones_like(labels)
        if self._by_class.numel():
            self._by_class[-1].index_add_(0, labels, ones)
        if self._confusion.numel():
            places = labels * len(self._confusion) + guesses[:, 0]
            self._confusion.view(-1).index_add_(0, places, ones)

    def evaluation(self, world: World) -> Evaluation:
        """What was counted, in all processes together."""
        sums = dict(zip(self._heads, world.sum_(self._sums).tolist(), strict=True))
        classes = None
        if self._by_class.numel():
            *correct, total = world.sum_(self._by_class).cpu().numpy()
            confusion = None
            if self._confusion.numel():
                confusion = world.sum_(self._confusion).cpu().numpy()
            classes = ClassCounts(total, dict(zip(self._heads, correct, strict=True)), confusion)
        heads = {name: _score(name, of_head, classes) for name, of_head in sums.items()}
        return Evaluation(int(sums[self._heads[0]][-1]), heads, classes)


def _score(name: str, sums: list[float], classes: ClassCounts | None) -> HeadScore:
    correct1, correct5, loss, *real, num_images = sums
    return HeadScore(
        top1_pct=100 * correct1 / num_images,
        top5_pct=100 * correct5 / num_images,
        loss=loss / num_images,
        real_top1_pct=100 * real[0] / real[1] if real else None,
        macro_top1_pct=None if classes is None else classes.macro_top1_pct(name),
    )


def _count(probs: Tensor, guesses: Tensor, labels: Tensor, right: Tensor | None) -> Tensor:
    """Sums over a batch, float64: correct at 1, correct at 5, negative log-likelihood."""
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
