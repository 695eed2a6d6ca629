"""The rules of a configuration, as rows that one function reads."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastdeit.errors import require, require_effect

Effect = tuple[str, Callable[[Any], bool], str, str]
"""Fields, when they have an effect, without what they have none, and what would give them one."""
Rule = tuple[str, Callable[[Any], bool], str, str]
"""A field, what must hold, that in words, with {0.field}s of it, and the way out."""

_INTERVAL = re.compile(r"([\[(])([\d.]+), ([\d.]+|inf)([\])])")


def check(
    config: Any,
    ranges: Mapping[str, str] = {},
    rules: Sequence[Rule] = (),
    effects: Sequence[Effect] = (),
) -> None:
    """Refuse a configuration that cannot work, with a UserError.

    A field of a few words (`Literal`) must be one of them. `ranges` gives one or more fields an
    interval, such as "[0, 1)"; None is in every one. `rules` is what else must hold, `effects` the
    fields that must be left as they are where they do nothing.
    """
    kind: type = type(config)
    for name, known in _choices(kind).items():
        value = getattr(config, name)
        rule = f"must be one of {', '.join(known)}"
        require(value in known, name, repr(value), rule, f"Pass {_option(name)} {known[0]}, say.")
    for names, interval in ranges.items():
        for name in names.split():
            value = getattr(config, name)
            is_in = value is None or _holds(interval, value)
            require(is_in, name, value, f"must be {_words(interval)}", _way_out(config, name))
    for name, holds, rule, way_out in rules:
        require(holds(config), name, getattr(config, name), rule.format(config), way_out)
    for names, has_effect, without, way_out in effects:
        for name in names.split():
            require_effect(config, name, has_effect(config), without, way_out)


@functools.cache
def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    hints = get_type_hints(kind)
    literals = {each.name: hints[each.name] for each in fields(kind)}
    return {name: get_args(hint) for name, hint in literals.items() if get_origin(hint) is Literal}


def _parsed(interval: str) -> tuple[float, bool, float, bool]:
    match = _INTERVAL.fullmatch(interval)
    assert match is not None, interval
    return float(match[2]), match[1] == "[", float(match[3]), match[4] == "]"


def _holds(interval: str, value: float) -> bool:
    low, with_low, high, with_high = _parsed(interval)
    above = low <= value if with_low else low < value
    return above and (value <= high if with_high else value < high)  # not of NaN


def _words(interval: str) -> str:
    low, with_low, high, with_high = _parsed(interval)
    if with_low and with_high and math.isfinite(high):
        return f"from {low:g} to {high:g}"
    least = f"at least {low:g}" if with_low else f"above {low:g}"
    if math.isinf(high):
        return least if low or not with_low else "0 or more"
    return f"{least} and {'at most' if with_high else 'below'} {high:g}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _way_out(config: Any, name: str) -> str:
    default = config.__dataclass_fields__[name].default
    return (
        f"Leave {_option(name)} out." if default is None else f"Pass {_option(name)} {default:g}."
    )
