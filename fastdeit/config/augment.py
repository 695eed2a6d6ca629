"""What is done to a batch on its device. A module of its own, so that reading it needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fastdeit.errors import require, require_effect
from fastdeit.policies import parse_policy

Interpolation = Literal["bicubic", "bilinear", "random"]
EraseMode = Literal["pixel", "rand", "const"]
MixMode = Literal["batch", "pair", "elem"]
AugmentOrder = Literal["deit", "timm-prefetcher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What is done to a batch on the device: flip, policy, jitter, normalise, erase, mix."""

    hflip_prob: float = 0.5
    """Probability of a horizontal flip."""
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    """timm's string for a policy: rand with any of -m9 -n2 -p0.5 -mstd0.5 -mmax10 -inc1 -tweights
    (RandAugment), original, originalr, v0, v0r (AutoAugment), 3a (3-Augment); also ta_wide
    (TrivialAugment) and none (Table 9: RandAugment 9/0.5)."""
    augment_interpolation: Interpolation = "bicubic"
    """How rotated, sheared and shifted images are resampled; random draws for each."""
    color_jitter: tuple[float, ...] = ()
    """Colour jitter after the policy: one number for brightness, contrast and saturation, or one
    for each of them, or a fourth for the hue (DeiT-III: 0.3). timm ignores it beside a policy other
    than 3a; here it is always done."""
    erase_prob: float = 0.25
    """Probability of Random Erasing (Table 9: 0.25)."""
    erase_mode: EraseMode = "pixel"
    """What is erased becomes normal noise, one normal colour, or the mean colour."""
    erase_count: int = 1
    """An image gets 1 to so many rectangles, which share the area."""
    erase_splits: int = 0
    """From 2 on: the first 1 / erase_splits of each batch is not erased."""
    mixup_alpha: float = 0.8
    """Mixup's Beta parameter, 0 for no Mixup (Table 9: 0.8)."""
    cutmix_alpha: float = 1.0
    """CutMix's Beta parameter, 0 for no CutMix (Table 9: 1.0)."""
    cutmix_minmax: tuple[float, float] | None = None
    """Least and greatest side of CutMix's box over the image's, in place of its Beta."""
    mix_prob: float = 1.0
    """Probability that a batch (or pair, or image) is mixed at all."""
    switch_prob: float = 0.5
    """Probability of CutMix rather than Mixup, where both are on."""
    mix_mode: MixMode = "batch"
    """One decision for a batch, for each pair of partners, or for each image."""
    smoothing: float = 0.1
    """Label smoothing (Table 9: 0.1)."""
    augment_order: AugmentOrder = "deit"
    """deit erases, then mixes; timm-prefetcher mixes uint8 images, then erases, as timm's own
    training does."""

    def __post_init__(self) -> None:
        policy = parse_policy(self.auto_augment)
        for name in ("hflip_prob", "erase_prob", "switch_prob", "mix_prob"):
            value = getattr(self, name)
            require(
                0 <= value <= 1,
                name,
                value,
                "must be a probability from 0 to 1",
                f"Pass --{name.replace('_', '-')} 0.5, say.",
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                name,
                value,
                "must be a number of 0 or more",
                f"Pass --{name.replace('_', '-')} 0 to switch it off.",
            )
        require(
            0 <= self.smoothing < 1,
            "smoothing",
            self.smoothing,
            "must be at least 0 and below 1",
            "Pass --smoothing 0.1, say.",
        )
        for name, known in (
            ("augment_interpolation", Interpolation),
            ("erase_mode", EraseMode),
            ("mix_mode", MixMode),
            ("augment_order", AugmentOrder),
        ):
            require(
                getattr(self, name) in get_args(known),
                name,
                repr(getattr(self, name)),
                f"must be one of {', '.join(get_args(known))}",
                f"Pass --{name.replace('_', '-')} {get_args(known)[0]}, say.",
            )
        require(
            isinstance(self.color_jitter, tuple)
            and len(self.color_jitter) in (0, 1, 3, 4)
            and all(0 <= value <= 10 for value in self.color_jitter)
            and all(value <= 0.5 for value in self.color_jitter[3:]),
            "color_jitter",
            self.color_jitter,
            "must be 1, 3 or 4 numbers from 0 to 10, the fourth (hue) at most 0.5",
            "Pass --color-jitter 0.3, say.",
        )
        require(
            1 <= self.erase_count <= 100,
            "erase_count",
            self.erase_count,
            "must be from 1 to 100",
            "Pass --erase-count 1, say; --erase-prob 0 switches erasing off.",
        )
        require(
            self.erase_splits == 0 or self.erase_splits >= 2,
            "erase_splits",
            self.erase_splits,
            "must be 0 (all images may be erased) or at least 2",
            "Pass --erase-splits 2 for a clean first half, say.",
        )
        if self.cutmix_minmax is not None:
            low, high = self.cutmix_minmax
            require(
                0 <= low < high <= 1,
                "cutmix_minmax",
                self.cutmix_minmax,
                "must be two numbers from 0 to 1, the smaller first",
                "Pass --cutmix-minmax 0.2 0.8, say.",
            )
            require(
                self.cutmix_alpha in (0, 1),
                "cutmix_alpha",
                self.cutmix_alpha,
                "has no effect beside cutmix_minmax",
                "Leave one of them out.",
            )
        require_effect(
            self,
            "augment_interpolation",
            policy is not None and policy.moves_pixels,
            "a policy that rotates, shears or shifts",
            "Pass --auto-augment rand-m9-mstd0.5-inc1, say",
        )
        for name in ("erase_mode", "erase_count", "erase_splits"):
            require_effect(
                self, name, self.erase_prob > 0, "Random Erasing", "Pass --erase-prob 0.25, say"
            )
        mixes = self.use_mixup or self.use_cutmix
        for name in ("mix_prob", "mix_mode", "augment_order"):
            require_effect(self, name, mixes, "Mixup and CutMix", "Pass --mixup-alpha 0.8, say")
        require_effect(
            self,
            "switch_prob",
            self.use_mixup and self.use_cutmix,
            "both Mixup and CutMix",
            "Pass --mixup-alpha 0.8 and --cutmix-alpha 1, say",
        )

    @property
    def use_mixup(self) -> bool:
        """Whether Mixup is on."""
        return self.mixup_alpha > 0

    @property
    def use_cutmix(self) -> bool:
        """Whether CutMix is on."""
        return self.cutmix_alpha > 0 or self.cutmix_minmax is not None

    @property
    def jitter(self) -> tuple[float, float, float, float]:
        """The ranges of brightness, contrast, saturation and hue."""
        given = self.color_jitter * 3 if len(self.color_jitter) == 1 else self.color_jitter
        brightness, contrast, saturation, hue = (*given, 0.0, 0.0, 0.0, 0.0)[:4]
        return brightness, contrast, saturation, hue
