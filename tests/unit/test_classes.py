"""The one rule by which classes of two origins are matched, and what is said where they differ."""

from __future__ import annotations

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.checkpoints.classes import (
    Classes,
    describe_difference,
    locate,
    numbered_classes,
    require_classes,
)
from fastdeit.pipelines.datasets.index import empty_classes

IDS = ("n01440764", "n01443537", "n01484850")
WORDS = ("tench", "goldfish", "shark")
NUMBERS = numbered_classes(3)
NAMED = Classes(WORDS, IDS)
SIDES = ("the set", "the model")


@pytest.mark.parametrize(
    ("wanted", "within", "numbers", "by"),
    [
        (NAMED, NAMED, (0, 1, 2), "WordNet id"),
        # Ids are worth more than words, and the words of an old checkpoint may be ids.
        (Classes(("x", "y", "z"), IDS[::-1]), NAMED, (2, 1, 0), "WordNet id"),
        (Classes(NUMBERS, IDS[::-1]), NAMED, (2, 1, 0), "WordNet id"),
        (Classes(IDS[::-1]), NAMED, (2, 1, 0), "WordNet id"),
        (Classes(WORDS[::-1], NUMBERS), NAMED, (2, 1, 0), "name"),
        (Classes(("b", "a"), ("b", "a")), Classes(("a", "b"), ("a", "b")), (1, 0), "name"),
        # Folders called 1 to 10 have names: the order of their letters is not that of the numbers.
        (
            Classes(tuple(sorted(map(str, range(1, 11))))),
            Classes(tuple(map(str, range(1, 11)))),
            (0, 9, 1, 2, 3, 4, 5, 6, 7, 8),
            "name",
        ),
        # Two classes of one name.
        (Classes(("crane", "crane")), Classes(("crane", "crane")), (0, 1), "name"),
        # ImageNet-V2's folders, FFCV's own files, imports without names.
        (Classes(NUMBERS, NUMBERS), NAMED, (0, 1, 2), "number"),
        (NAMED, Classes(NUMBERS), (0, 1, 2), "number"),
        (Classes(NUMBERS), Classes(NUMBERS, NUMBERS), (0, 1, 2), "name"),
        # An old checkpoint's words, and a set whose names are only numbered.
        (Classes(NUMBERS, IDS), Classes(WORDS), (0, 1, 2), "number"),
        # Shards of others, of which some images tell their class.
        (Classes(("tench", "1", "2"), (IDS[0], "1", "2")), NAMED, (0, 1, 2), "WordNet id"),
        (Classes(WORDS, (IDS[0], "1", "2")), Classes(WORDS[::-1], IDS[::-1]), (2, 1, 0), "name"),
    ],
)
def test_the_same_classes(
    wanted: Classes, within: Classes, numbers: tuple[int, ...], by: str
) -> None:
    """They are found by WordNet id, else by name, else by number."""
    located = locate(wanted, within)
    assert located is not None
    assert (located.numbers, located.by) == (numbers, by)


@pytest.mark.parametrize(
    ("wanted", "within", "found"),
    [
        (
            Classes(("tench", "cat", "shark")),
            NAMED,
            "'cat' only in the set and 'goldfish' only in the model",
        ),
        (
            Classes(NUMBERS, (*IDS[:2], "n09999999")),
            NAMED,
            "n09999999 only in the set and n01484850 only in the model",
        ),
        (Classes(WORDS[:2], IDS[:2]), NAMED, "n01484850 only in the model"),
        (
            Classes(tuple(f"c{n}" for n in range(1, 9))),
            Classes(("c1",)),
            "'c2', 'c3', 'c4', 'c5', 'c6' and 2 more only in the set",
        ),
        (Classes(("0", "1")), NAMED, "2 classes in the set, 3 in the model"),
        (
            Classes(IDS),
            Classes(WORDS),
            "3 classes in the set, 3 in the model, named in other ways ('n01440764' and 'tench')",
        ),
        (
            Classes(("crane", "bird", "crane")),
            Classes(("crane", "crane", "bird")),
            "'crane' for several classes, which stand in another order",
        ),
        (
            Classes(NUMBERS, ("0", IDS[0], "2")),
            Classes(NUMBERS, IDS),
            "3 classes in the set, 3 in the model; some that nothing names, and others not at "
            "their numbers",
        ),
    ],
)
def test_other_classes(wanted: Classes, within: Classes, found: str) -> None:
    """They are refused, with the first of each side that differ, and the way out."""
    with pytest.raises(UserError) as raised:
        require_classes(wanted, within, "sets must be alike", SIDES, "Give another.")
    assert str(raised.value) == f"sets must be alike. Found: {found}. Give another."


def test_classes_without_an_image_in_words() -> None:
    """The first of them, and how many there are."""
    names = tuple(map(str, range(12)))
    assert empty_classes(np.array([0, 1, 2]), WORDS) is None
    assert empty_classes(np.array([0, 2]), WORDS) == "class 1 (goldfish) has no image"
    few = empty_classes(np.arange(1, 11), names)
    assert few == "2 of 12 classes have no image: 0, 11"
    many = empty_classes(np.array([3]), names)
    assert many == "11 of 12 classes have no image: 0, 1, 2, 4, 5 and 6 more"


def test_a_part_of_the_classes() -> None:
    """It is found where both name classes, in any order; never by numbers."""
    located = locate(Classes(WORDS[:0:-1]), NAMED, may_be_part=True)
    assert located is not None
    assert located.numbers == (2, 1) and not located.is_in_order
    first = locate(Classes(WORDS[:2]), NAMED, may_be_part=True)
    assert first is not None
    assert first.numbers == (0, 1) and not first.is_in_order
    assert locate(Classes(("0", "1")), NAMED, may_be_part=True) is None
    other = Classes(("cat", "shark"))
    assert locate(other, NAMED, may_be_part=True) is None
    assert describe_difference(other, NAMED, SIDES, may_be_part=True) == "'cat' only in the set"
    twice = Classes(("crane", "crane", "bird"))
    assert locate(Classes(("crane", "bird")), twice, may_be_part=True) is None
