"""Augmentation of a batch on its device, in DeiT's order.

Flip, the policy's operations (RandAugment and its like), colour jitter, normalise, erase, mix.
`sample_augmentation` draws every decision on the host from keyed randomness, so nothing waits for
the device; `apply_augmentation` is pure and takes them.
"""

from fastdeit.augment.ahead import AugmentedBatch, augment, augmented
from fastdeit.augment.compose import (
    Augmentation,
    apply_augmentation,
    normalise,
    sample_augmentation,
)
from fastdeit.augment.decisions import Operations, sample_operations
from fastdeit.augment.mix import MixedTargets, dense_targets
from fastdeit.augment.operate import apply_operations

__all__ = [
    "Augmentation",
    "AugmentedBatch",
    "MixedTargets",
    "Operations",
    "apply_augmentation",
    "apply_operations",
    "augment",
    "augmented",
    "dense_targets",
    "normalise",
    "sample_augmentation",
    "sample_operations",
]
