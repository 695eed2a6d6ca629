"""What is done to a batch on its device. A module of its own, so that reading it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastdeit.config.rules import Effect, Rule, check
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
        check(self, _RANGES, _RULES, _EFFECTS)

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

    @property
    def moves_pixels(self) -> bool:
        """Whether the policy rotates, shears or shifts."""
        policy = parse_policy(self.auto_augment)
        return policy is not None and policy.moves_pixels


_RANGES = {
    "hflip_prob erase_prob switch_prob mix_prob": "[0, 1]",
    "mixup_alpha cutmix_alpha": "[0, inf)",
    "smoothing": "[0, 1)",
    "erase_count": "[1, 100]",
}
_RULES: tuple[Rule, ...] = (
    (
        "color_jitter",
        lambda c: (
            isinstance(c.color_jitter, tuple)
            and len(c.color_jitter) in (0, 1, 3, 4)
            and all(0 <= value <= 10 for value in c.color_jitter)
            and all(value <= 0.5 for value in c.color_jitter[3:])
        ),
        "must be 1, 3 or 4 numbers from 0 to 10, the fourth (hue) at most 0.5",
        "Pass --color-jitter 0.3, say.",
    ),
    (
        "erase_splits",
        lambda c: c.erase_splits == 0 or c.erase_splits >= 2,
        "must be 0 (all images may be erased) or at least 2",
        "Pass --erase-splits 2 for a clean first half, say.",
    ),
    (
        "cutmix_minmax",
        lambda c: c.cutmix_minmax is None or 0 <= c.cutmix_minmax[0] < c.cutmix_minmax[1] <= 1,
        "must be two numbers from 0 to 1, the smaller first",
        "Pass --cutmix-minmax 0.2 0.8, say.",
    ),
    (
        "cutmix_alpha",
        lambda c: c.cutmix_minmax is None or c.cutmix_alpha in (0, 1),
        "has no effect beside cutmix_minmax",
        "Leave one of them out.",
    ),
)
_EFFECTS: tuple[Effect, ...] = (
    (
        "augment_interpolation",
        lambda c: c.moves_pixels,
        "a policy that rotates, shears or shifts",
        "Pass --auto-augment rand-m9-mstd0.5-inc1, say",
    ),
    (
        "erase_mode erase_count erase_splits",
        lambda c: c.erase_prob > 0,
        "Random Erasing",
        "Pass --erase-prob 0.25, say",
    ),
    (
        "mix_prob mix_mode augment_order",
        lambda c: c.use_mixup or c.use_cutmix,
        "Mixup and CutMix",
        "Pass --mixup-alpha 0.8, say",
    ),
    (
        "switch_prob",
        lambda c: c.use_mixup and c.use_cutmix,
        "both Mixup and CutMix",
        "Pass --mixup-alpha 0.8 and --cutmix-alpha 1, say",
    ),
)
