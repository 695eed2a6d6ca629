"""Which classes a model or a dataset has, and whether two of them mean the same.

The one rule for all that brings class numbers of two origins together: by WordNet id, else by name;
where nothing names the classes of one side, by number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastdeit.errors import UserError

WORDNET_ID = re.compile(r"n\d{8}")
NUM_SHOWN = 5
"""How many classes of each side a message names."""


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of classes of which only the number is known: 0 to count - 1."""
    return tuple(map(str, range(count)))


@dataclass(frozen=True, slots=True)
class Classes:
    """K classes in the order of their numbers."""

    names: tuple[str, ...]
    """Words for each; its number where nothing is known."""
    ids: tuple[str, ...] = ()
    """Identifier of each, such as a WordNet id; empty if there are none."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def are_numbered(self) -> bool:
        """Whether the names are only numbers, as after an import without names."""
        return self.names == numbered_classes(len(self.names))

    def to_dict(self) -> dict[str, list[str]]:
        """As plain types, which `read_classes` reads."""
        return {"class_names": list(self.names), "class_ids": list(self.ids)}

    def labels(self, by: Literal["WordNet id", "name"]) -> tuple[str, ...]:
        """What names each class in one way; "" for those that have nothing of the kind."""
        by_id = self.ids if any(map(WORDNET_ID.fullmatch, self.ids)) else self.names
        known = tuple(each if WORDNET_ID.fullmatch(each) else "" for each in by_id)
        if by == "WordNet id":
            return known
        # Words that nobody knew are the ids, or the numbers, once more.
        is_word = (
            name != str(number) and not WORDNET_ID.fullmatch(name)
            for number, name in enumerate(self.names)
        )
        return self.names if any(is_word) else ("",) * len(self)


def read_classes(content: Mapping[str, Any]) -> Classes:
    """The classes that a checkpoint or a store of labels holds; those of old ones have no ids."""
    return Classes(tuple(content["class_names"]), tuple(content.get("class_ids", ())))


@dataclass(frozen=True, slots=True)
class Located:
    """Where the classes of one thing are among those of another."""

    numbers: tuple[int, ...]
    """For each class of the one its number in the other."""
    by: Literal["WordNet id", "name", "number"]
    """What they were matched by; number if only one of the two names its classes."""
    num_within: int
    """How many classes the other has."""

    @property
    def is_in_order(self) -> bool:
        """Whether they are all of them, each with its own number."""
        return self.numbers == tuple(range(self.num_within))

    def explain(self, of: str) -> str:
        """What a user must know of it; "" if the classes simply are those `of` the other."""
        if self.by == "number":
            count = f"its {len(self.numbers):,} classes"
            return f"{count} are taken for those of {of} in their order, for one only numbers them"
        if self.is_in_order:
            return ""
        if len(self.numbers) < self.num_within:
            part = f"{len(self.numbers):,} of the {self.num_within:,}"
            return f"its classes are {part} of {of}, the others are left out"
        return f"its classes stand in another order than those of {of}; {self.by}s match them"


def locate(wanted: Classes, within: Classes, may_be_part: bool = False) -> Located | None:
    """Find the classes of one thing among those of another.

    Args:
        wanted: the classes to find.
        within: where they are looked for.
        may_be_part: whether it may have others beside.

    Returns:
        None if they are others, or if names and gaps do not tell which is which.
    """
    is_named = False
    for by, one, other in _comparable(wanted, within):
        is_named = True
        numbers = _find(one, other, may_be_part)
        if numbers is not None:
            return Located(numbers, by, len(within))
        if all(one) and all(other):
            return None
    can_number = wanted.are_numbered or within.are_numbered
    if is_named or not can_number or len(wanted) != len(within):
        return None
    way: Literal["name", "number"] = "name" if wanted.names == within.names else "number"
    return Located(tuple(range(len(wanted))), way, len(within))


def require_classes(
    wanted: Classes, within: Classes, rule: str, sides: tuple[str, str], way_out: str
) -> Located:
    """Find the classes of one thing in another that must have these and no others.

    Args:
        wanted: the classes to find.
        within: where they are looked for.
        rule: the sentence that they break if they differ.
        sides: what the one is and what the other is, for the message.
        way_out: what to do then.

    Raises:
        UserError: they are others.
    """
    located = locate(wanted, within)
    if located is None:
        raise UserError(f"{rule}. Found: {describe_difference(wanted, within, sides)}. {way_out}")
    return located


def describe_difference(
    wanted: Classes, within: Classes, sides: tuple[str, str], may_be_part: bool = False
) -> str:
    """How classes differ that `locate` does not find: the first of each side that are not alike.

    `sides` is what the one is and what the other is.
    """
    counts = f"{len(wanted):,} classes in {sides[0]}, {len(within):,} in {sides[1]}"
    for by, one, other in _comparable(wanted, within):
        only = [_without(one, other), [] if may_be_part else _without(other, one)]
        alone = [
            f"{_list(labels, by == 'name')} only in {side}"
            for side, labels in zip(sides, only, strict=True)
            if labels
        ]
        if alone:
            return " and ".join(alone)
        if all(one) and all(other):
            several = next(each for each in one if one.count(each) > 1 or other.count(each) > 1)
            return f"{several!r} for several classes, which stand in another order"
        return f"{counts}; some that nothing names, and others not at their numbers"
    if len(wanted) != len(within):
        return counts
    return f"{counts}, named in other ways ({wanted.names[0]!r} and {within.names[0]!r})"


def _comparable(
    one: Classes, other: Classes
) -> list[tuple[Literal["WordNet id", "name"], tuple[str, ...], tuple[str, ...]]]:
    """The ways in which both name classes, with the labels of each, the best first."""
    kinds: tuple[Literal["WordNet id", "name"], ...] = ("WordNet id", "name")
    both = [(by, one.labels(by), other.labels(by)) for by in kinds]
    return [(by, mine, theirs) for by, mine, theirs in both if any(mine) and any(theirs)]


def _find(
    wanted: Sequence[str], within: Sequence[str], may_be_part: bool
) -> tuple[int, ...] | None:
    """The number of each label among others; "" is one that is not known."""
    in_order = tuple(range(len(wanted)))
    if wanted == within:
        return in_order
    places = {label: number for number, label in enumerate(within) if label}
    is_clear = len(places) == sum(map(bool, within)) and len({*wanted}) == len(wanted)
    numbers = [places.get(label, -1) for label in wanted]
    if is_clear and min(numbers) >= 0 and (may_be_part or len(wanted) == len(within)):
        return tuple(numbers)
    # What is known must stand at its number, or nobody can say where the others belong.
    if len(wanted) == len(within) and all(
        place == number or (place < 0 and "" in (label, other))
        for number, (place, label, other) in enumerate(zip(numbers, wanted, within, strict=True))
    ):
        return in_order
    return None


def _without(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The labels that only one has; none if the other does not know all of its own."""
    known = {*(other if all(other) else one)}
    return [label for label in one if label and label not in known]


def _list(labels: list[str], is_quoted: bool) -> str:
    shown = ", ".join(repr(each) if is_quoted else each for each in labels[:NUM_SHOWN])
    more = f" and {len(labels) - NUM_SHOWN:,} more" if len(labels) > NUM_SHOWN else ""
    return shown + more
