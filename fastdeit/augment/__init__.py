"""Augmentation of a batch on its device, in DeiT's order: flip, normalise, erase, mix.

`sample_augmentation` draws every decision on the host from keyed randomness, so nothing waits for
the device; `apply_augmentation` is pure and takes them. RandAugment is not here yet.
"""

from fastdeit.augment.compose import (
    Augmentation,
    MixedTargets,
    apply_augmentation,
    normalise,
    sample_augmentation,
)

__all__ = [
    "Augmentation",
    "MixedTargets",
    "apply_augmentation",
    "normalise",
    "sample_augmentation",
]
