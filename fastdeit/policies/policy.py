"""Policies: which operations an image may get, with which probability and magnitude.

A policy is one structure for all of RandAugment, AutoAugment, 3-Augment and TrivialAugment: a list
of rows, from which an image draws `num_layers` times; a row is one or two steps, done in order.
`parse_policy` reads timm's configuration strings.

Source: RandAugment arXiv:1909.13719, AutoAugment arXiv:1805.09501, 3-Augment arXiv:2204.07118
section 3, TrivialAugment arXiv:2103.10158; timm data/auto_augment.py, torchvision
transforms/autoaugment.py.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fastdeit.errors import UserError
from fastdeit.policies.autoaugment_tables import AUTOAUGMENT
from fastdeit.policies.operations import LEVEL_DENOM, NAMED_OPS, NUM_WIDE_BINS, Op

FILL = (124, 116, 104)
"""What lies outside an image: ImageNet's mean, round(255 x mean)."""
BLACK = (0, 0, 0)


class Step(NamedTuple):
    """One operation as a policy lists it."""

    name: str
    """In `NAMED_OPS`."""
    prob: float
    """Probability that it is applied, where its row was drawn."""
    magnitude: float
    """Its level, before noise."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an image may get."""

    rows: tuple[tuple[Step, ...], ...]
    """What is drawn from; all rows have the same length."""
    num_layers: int = 1
    """How many rows an image draws."""
    weights: tuple[float, ...] | None = None
    """How likely each row is, drawn without replacement; None: equally, with replacement."""
    magnitude_std: float = 0.0
    """Standard deviation of a magnitude's normal noise; inf: uniform from 0 to the magnitude."""
    magnitude_max: float = LEVEL_DENOM
    """Magnitudes are clipped to 0 .. this."""
    num_bins: int | None = None
    """Magnitudes are the numbers 0 .. num_bins - 1, drawn uniformly (TrivialAugment)."""
    fill: tuple[int, int, int] = FILL
    """RGB, 0 to 255, of what lies outside an image that was moved."""

    @property
    def num_slots(self) -> int:
        """How many operations an image gets at most."""
        return self.num_layers * len(self.rows[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that the policy knows, each once, in its order."""
        return tuple(dict.fromkeys(step.name for row in self.rows for step in row))

    @property
    def moves_pixels(self) -> bool:
        """Whether one of them resamples the image."""
        return any(NAMED_OPS[name].op >= Op.ROTATE for name in self.names)


RAND_OPS = (
    "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness "
    "Sharpness ShearX ShearY TranslateXRel TranslateYRel"
).split()
HAVE_INCREASING = frozenset("Posterize Solarize Color Contrast Brightness Sharpness".split())
RAND_OPS_INCREASING = [f"{n}Increasing" if n in HAVE_INCREASING else n for n in RAND_OPS]
# timm's `tweights`, `t3a` and `t3aw`.
RAND_WEIGHTS = {
    "Rotate": 3.0,
    "ShearX": 2.0,
    "ShearY": 2.0,
    "TranslateXRel": 1.0,
    "TranslateYRel": 1.0,
    "ColorIncreasing": 0.25,
    "SharpnessIncreasing": 0.25,
    "AutoContrast": 0.25,
    "SolarizeIncreasing": 0.05,
    "SolarizeAdd": 0.05,
    "ContrastIncreasing": 0.05,
    "BrightnessIncreasing": 0.05,
    "Equalize": 0.05,
    "PosterizeIncreasing": 0.05,
    "Invert": 0.05,
}
# `w0` of timm before it had `t`: the same idea, with two operations that never come.
RAND_WEIGHTS_0 = {
    **dict.fromkeys(("Solarize", "SolarizeAdd", "Contrast", "Brightness", "Equalize"), 0.005),
    **dict.fromkeys(("Color", "Sharpness", "AutoContrast"), 0.025),
    "Rotate": 0.3,
    "ShearX": 0.2,
    "ShearY": 0.2,
    "TranslateXRel": 0.1,
    "TranslateYRel": 0.1,
}
RAND_3A = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
RAND_3A_WEIGHTS = {
    **dict.fromkeys(RAND_3A, 6.0),
    "Rotate": 3.0,
    "ShearX": 2.0,
    "ShearY": 2.0,
    **dict.fromkeys(
        (
            "PosterizeIncreasing",
            "AutoContrast",
            "ColorIncreasing",
            "SharpnessIncreasing",
            "ContrastIncreasing",
            "BrightnessIncreasing",
            "Equalize",
            "Invert",
        ),
        1.0,
    ),
}
THREE_AUGMENT = (
    (Step("Solarize", 1.0, 5),),
    (Step("Desaturate", 1.0, 10),),
    (Step("GaussianBlurRand", 1.0, 10),),
)
WIDE_OPS = (
    "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness "
    "Posterize Solarize AutoContrast Equalize"
).split()

KNOWN = "rand-..., original, originalr, v0, v0r, 3a, ta_wide, none"
EXAMPLES = {"m": "9", "n": "2", "p": "0.5", "mstd": "0.5", "mmax": "10", "inc": "1", "w": "0"}
"""A value of each field, for messages."""
_FIELD = re.compile(r"([a-z]+)(\d+(?:\.\d*)?|\.\d+)$")


@functools.lru_cache(64)  # asked for in every step
def parse_policy(config: str) -> Policy | None:
    """Read a configuration string.

    Args:
        config: `rand` with fields, such as `rand-m9-mstd0.5-inc1`: m magnitude (10), n operations
            an image (2), p probability of each (0.5), mstd noise of the magnitude (0; above 100:
            uniform from 0), mmax its limit (10), inc 1 for operations that grow with it, t a set of
            operations (weights, 3a, 3aw), w 0 for the weights of older versions of timm;
            `original`, `originalr`, `v0`, `v0r` (AutoAugment) or `3a` (3-Augment), with mstd;
            `ta_wide` (TrivialAugment, torchvision's name); `none`, which gives None.

    Raises:
        UserError: no such policy or field, or a value that cannot be.

    Source: timm data/auto_augment.py:rand_augment_transform, auto_augment_transform. Where timm
    skips a field without a number in silence, this is an error. `w0` is what it was before timm
    1.0, which refuses it.
    """
    name, *parts = config.split("-")
    if name == "none" and not parts:
        return None
    if name == "ta_wide" and not parts:
        wide = tuple((Step(f"Wide{op}", 1.0, 0),) for op in WIDE_OPS)
        return Policy(wide, num_bins=NUM_WIDE_BINS, fill=BLACK)
    if name == "rand":
        return _parse_rand(config, _fields(config, parts, "m n p mstd mmax inc w t".split()))
    if name in AUTOAUGMENT or name == "3a":
        fields = _fields(config, parts, ["mstd"])
        table = THREE_AUGMENT if name == "3a" else AUTOAUGMENT[name]
        rows = tuple(tuple(Step(*step) for step in row) for row in table)
        std = _number(config, fields, "mstd", 0.0, 0, math.inf)
        return Policy(rows, magnitude_std=std)
    raise UserError(
        f"auto_augment must be a policy of timm's. Found: {config!r}. Known: {KNOWN}; "
        "the paper's is rand-m9-mstd0.5-inc1."
    )


def _parse_rand(config: str, fields: dict[str, str]) -> Policy:
    prob = _number(config, fields, "p", 0.5, 0, 1)
    std = _number(config, fields, "mstd", 0.0, 0, math.inf)
    most = int(_number(config, fields, "mmax", 0, 0, 1000, whole=True))
    limit = float(most) if most else LEVEL_DENOM  # timm: 0 is its default
    magnitude = _number(config, fields, "m", LEVEL_DENOM, 0, 1000, whole=True)
    num_layers = int(_number(config, fields, "n", 2, 1, 100, whole=True))
    increasing = bool(_number(config, fields, "inc", 0, 0, 1, whole=True))
    weights: dict[str, float] | None = None
    names: Iterable[str] = RAND_OPS_INCREASING if increasing else RAND_OPS
    which = fields.get("t")
    if "w" in fields:
        _number(config, fields, "w", 0, 0, 0, whole=True)
        weights = {name: RAND_WEIGHTS_0.get(name.removesuffix("Increasing"), 0.0) for name in names}
        weights = {name: weight for name, weight in weights.items() if weight > 0}
        names = weights
        if which is not None:
            raise UserError(
                f"the fields w and t of auto_augment exclude each other. Found: w0 and t{which} in "
                f"{config}. Leave one out."
            )
    if which in ("weights", "3aw"):
        names = weights = RAND_WEIGHTS if which == "weights" else RAND_3A_WEIGHTS
    elif which == "3a":
        names = RAND_3A
    elif which is not None:
        raise UserError(
            f"the field t of auto_augment must be tweights, t3a or t3aw. Found: t{which} in "
            f"{config}. Leave it out for the {len(RAND_OPS)} operations."
        )
    if weights is not None and num_layers > len(weights):
        raise UserError(
            f"with weights, n must be at most {len(weights)}, since no operation comes twice. "
            f"Found: n{num_layers} in {config}. Pass a smaller n."
        )
    return Policy(
        tuple((Step(name, prob, magnitude),) for name in names),
        num_layers,
        tuple(weights.values()) if weights is not None else None,
        math.inf if std > 100 else std,
        limit,
    )


def _fields(config: str, parts: list[str], known: list[str]) -> dict[str, str]:
    """Split `m9`, `mstd0.5`, `tweights` into names and values."""
    fields: dict[str, str] = {}
    for part in parts:
        if "t" in known and part.startswith("t"):
            name, value = "t", part[1:]
        else:
            match = _FIELD.match(part)
            name, value = match.groups() if match else (part, "")
        if name not in known or not value:
            raise UserError(
                f"a field of auto_augment must be one of {', '.join(known)} with its value. "
                f"Found: {part or 'an empty one'} in {config}. "
                "The paper's is rand-m9-mstd0.5-inc1."
            )
        if name in fields:
            raise UserError(
                f"a field of auto_augment must be given once. Found: {name} twice in {config}. "
                "Leave one out."
            )
        fields[name] = value
    return fields


def _number(
    config: str,
    fields: dict[str, str],
    name: str,
    default: float,
    low: float,
    high: float,
    *,
    whole: bool = False,
) -> float:
    if name not in fields:
        return default
    value = float(fields[name])
    if not low <= value <= high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        limit = "0 or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(
            f"the field {name} of auto_augment must be {kind}, {limit}. Found: {fields[name]} in "
            f"{config}. Pass {name}{EXAMPLES[name]}, say."
        )
    return value


def one_operation(name: str, magnitude: float) -> Policy:
    """A policy that always does one operation at one magnitude, to see or measure it.

    Raises KeyError for a name that is not in `NAMED_OPS`.
    """
    NAMED_OPS[name]
    return Policy(((Step(name, 1.0, magnitude),),), magnitude_max=math.inf)
