"""Losses over two labels and a weight, and the teacher's term."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastdeit.augment import MixedTargets
from fastdeit.config import DistillConfig


def weigh_classes(
    labels: NDArray[np.int64], num_classes: int, kind: Literal["balanced", "sqrt"]
) -> Tensor:
    """The weight of each class, from how many images it has: (K,) float32.

    Of (N,) class numbers of a training set. balanced is N / (classes with an image x images of this
    one), as scikit-learn has it, sqrt its square root; without an image it is 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.zeros(num_classes)
    has = counts > 0
    weights[has] = len(labels) / (has.sum() * counts[has])
    return torch.from_numpy(weights if kind == "balanced" else np.sqrt(weights)).float()


def image_weights(targets: MixedTargets, class_weights: Tensor) -> Tensor:
    """The weight of each image of a batch, in which its labels have their shares: (B,) float32."""
    own, partner = class_weights[targets.labels], class_weights[targets.partner_labels]
    return targets.weight * own + (1 - targets.weight) * partner


def mixed_cross_entropy(
    logits: Tensor, targets: MixedTargets, smoothing: float, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy against smoothed, mixed labels, without building the dense targets.

    Of (B, K) logits () float32, the mean over the batch; the smoothing is spread over all K
    classes. Source: timm loss/cross_entropy.py:SoftTargetCrossEntropy over
    data/mixup.py:mixup_target.

    `class_weights` (K,) multiply each class's term. Divided by their mean over the images they give
    torch's CrossEntropyLoss(weight=...).
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    if class_weights is not None:
        log_probs = log_probs * class_weights
    own = log_probs.gather(1, targets.labels[:, None]).squeeze(1)
    partner = log_probs.gather(1, targets.partner_labels[:, None]).squeeze(1)
    mixed = targets.weight * own + (1 - targets.weight) * partner
    return -((1 - smoothing) * mixed + smoothing * log_probs.mean(-1)).mean()


def mixed_binary_cross_entropy(
    logits: Tensor, targets: MixedTargets, class_weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy in which every mixed-in label counts fully, without dense targets.

    Of (B, K) logits () float32, the mean over the batch and all K classes; a label with no share is
    none. Source: DeiT-III, arXiv:2204.07118 section 3.2; deit main.py and engine.py with
    --bce-loss: BCEWithLogitsLoss on targets above 0, which is why labels must not be smoothed.

    `class_weights` (K,) multiply all terms of an image, by the shares of its labels. Source: Cui et
    al., arXiv:1901.05555 section 4.2.
    """
    logits = logits.float()
    own = logits.gather(1, targets.labels[:, None]).squeeze(1)
    partner = logits.gather(1, targets.partner_labels[:, None]).squeeze(1)
    has_own = targets.weight > 0
    # Where both labels are the same class, it counts once.
    has_partner = (targets.weight < 1) & ((targets.partner_labels != targets.labels) | ~has_own)
    positive = own * has_own + partner * has_partner
    loss = F.softplus(logits).sum(-1) - positive
    if class_weights is not None:
        loss = loss * image_weights(targets, class_weights)
    return loss.mean() / logits.shape[-1]


def distilled_loss(
    class_loss: Tensor,
    student_logits: Tensor,
    answer: Tensor,
    config: DistillConfig,
    compat: Literal["none", "upstream"] = "none",
) -> Tensor:
    """The label's loss and the teacher's, each with its share.

    () float32: (1 - w) class_loss + w teacher_loss. `student_logits` (B, K) are of the head that
    learns from the teacher. `answer` is the teacher's on the same images: (B,) int64 classes for
    hard distillation, (B, K) float32 probabilities at the temperature for soft. With upstream the
    soft term is divided by the classes too, as in the published code. Source: paper equations 2 and
    3; deit losses.py:DistillationLoss.
    """
    if config.distillation == "hard":
        taught = F.cross_entropy(
            student_logits.float(), answer, label_smoothing=config.teacher_smoothing
        )
    else:
        log_probs = F.log_softmax(student_logits.float() / config.temperature, dim=-1)
        taught = config.temperature**2 * F.kl_div(log_probs, answer, reduction="batchmean")
        if compat == "upstream":
            taught = taught / student_logits.shape[-1]
    return (1 - config.weight) * class_loss + config.weight * taught
