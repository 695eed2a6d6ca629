"""Losses over two labels and a weight, and the teacher's term."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fastdeit.augment import MixedTargets
from fastdeit.config import DistillConfig


def mixed_cross_entropy(logits: Tensor, targets: MixedTargets, smoothing: float) -> Tensor:
    """Cross-entropy against smoothed, mixed labels, without building the dense targets.

    Of (B, K) logits () float32, the mean over the batch; the smoothing is spread over all K
    classes. Source: timm loss/cross_entropy.py:SoftTargetCrossEntropy over
    data/mixup.py:mixup_target.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    own = log_probs.gather(1, targets.labels[:, None]).squeeze(1)
    partner = log_probs.gather(1, targets.partner_labels[:, None]).squeeze(1)
    mixed = targets.weight * own + (1 - targets.weight) * partner
    return -((1 - smoothing) * mixed + smoothing * log_probs.mean(-1)).mean()


def mixed_binary_cross_entropy(logits: Tensor, targets: MixedTargets) -> Tensor:
    """Binary cross-entropy in which every mixed-in label counts fully, without dense targets.

    Of (B, K) logits () float32, the mean over the batch and all K classes; a label with no share is
    none. Source: DeiT-III, arXiv:2204.07118 section 3.2; deit main.py and engine.py with
    --bce-loss: BCEWithLogitsLoss on targets above 0, which is why labels must not be smoothed.
    """
    logits = logits.float()
    own = logits.gather(1, targets.labels[:, None]).squeeze(1)
    partner = logits.gather(1, targets.partner_labels[:, None]).squeeze(1)
    has_own = targets.weight > 0
    # Where both labels are the same class, it counts once.
    has_partner = (targets.weight < 1) & ((targets.partner_labels != targets.labels) | ~has_own)
    positive = own * has_own + partner * has_partner
    return (F.softplus(logits).sum(-1) - positive).mean() / logits.shape[-1]


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
