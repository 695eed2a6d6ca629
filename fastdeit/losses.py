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
