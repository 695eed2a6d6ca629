"""Losses over two labels and a weight, and the teacher's term."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastdeit.augment import MixedTargets


def mixed_cross_entropy(logits: Tensor, targets: MixedTargets, smoothing: float) -> Tensor:
    """Cross-entropy against smoothed, mixed labels, without building the dense targets.

    Args:
        logits: (B, K) float.
        targets: two labels and a weight for each of the B samples.
        smoothing: epsilon of label smoothing, spread over all K classes.

    Returns:
        () float32, the mean over the batch.

    Source: timm loss/cross_entropy.py:SoftTargetCrossEntropy over data/mixup.py:mixup_target.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    own = log_probs.gather(1, targets.labels[:, None]).squeeze(1)
    partner = log_probs.gather(1, targets.partner_labels[:, None]).squeeze(1)
    mixed = targets.weight * own + (1 - targets.weight) * partner
    return -((1 - smoothing) * mixed + smoothing * log_probs.mean(-1)).mean()


def mixed_binary_cross_entropy(logits: Tensor, targets: MixedTargets) -> Tensor:
    """Binary cross-entropy in which every mixed-in label counts fully, without dense targets.

    Args:
        logits: (B, K) float.
        targets: two labels and a weight for each of the B samples; a label with no share is none.

    Returns:
        () float32, the mean over the batch and all K classes.

    Source: DeiT-III, arXiv:2204.07118 section 3.2; deit main.py and engine.py with --bce-loss:
        BCEWithLogitsLoss on targets above 0, which is why labels must not be smoothed.
    """
    logits = logits.float()
    own = logits.gather(1, targets.labels[:, None]).squeeze(1)
    partner = logits.gather(1, targets.partner_labels[:, None]).squeeze(1)
    has_own = targets.weight > 0
    # Where both labels are the same class, it counts once.
    has_partner = (targets.weight < 1) & ((targets.partner_labels != targets.labels) | ~has_own)
    positive = own * has_own + partner * has_partner
    return (F.softplus(logits).sum(-1) - positive).mean() / logits.shape[-1]


def hard_distillation_loss(
    class_loss: Tensor, dist_logits: Tensor, teacher_logits: Tensor
) -> Tensor:
    """Half the label's loss on the class head, half the teacher's decision on the other.

    Args:
        class_loss: () the loss of the class head.
        dist_logits: (B, K) float, of the distillation head.
        teacher_logits: (B, K) float, on the same augmented and mixed images.

    Returns:
        () float32.

    Source: paper equation 3; deit losses.py:DistillationLoss with alpha 0.5 and type hard.
    """
    decision = teacher_logits.argmax(1)
    return 0.5 * class_loss + 0.5 * F.cross_entropy(dist_logits.float(), decision)
