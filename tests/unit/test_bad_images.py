"""Which image is shown in place of one that does not decode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines import bad_images
from fastdeit.pipelines.engines.bad_images import Replacements
from fastdeit.pipelines.engines.decode import BadImageError
from fastdeit.pipelines.engines.synthetic import synthetic_index


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The samples that do not decode; a test fills it."""
    numbers: set[int] = set()

    def decode(index: DatasetIndex, sample: int) -> Any:
        if sample in numbers:
            raise BadImageError(index, sample, "planted")

    monkeypatch.setattr(bad_images, "decode_with_pil", decode)
    return numbers


@pytest.mark.parametrize("found", [(4, 5), (5, 4)])
def test_whatever_is_found_first(found: tuple[int, int], bad: set[int]) -> None:
    """Bad neighbours get the same good one, in whichever order they are met."""
    bad.update(found)
    replacements = Replacements(synthetic_index(10, 2))
    for sample in found:
        replacements.add(sample, "planted")
    assert replacements.by_sample == {4: 6, 5: 6}


def test_a_neighbour_that_only_an_engine_refuses(bad: set[int]) -> None:
    """If what was shown turns out bad, those that it stood for get another one too."""
    bad.add(4)
    replacements = Replacements(synthetic_index(10, 2))
    replacements.add(4, "planted")
    assert replacements.by_sample == {4: 5}
    replacements.add(5, "an engine says so")
    assert replacements.by_sample == {4: 6, 5: 6}
    samples = np.array([3, 4, 5, 6, 4])
    assert replacements.apply(samples).tolist() == [3, 6, 6, 6, 6]
    assert samples.tolist() == [3, 4, 5, 6, 4]
    replacements.count(samples)
    assert replacements.num_shown == 3


def test_the_order_is_that_of_the_keys(bad: set[int]) -> None:
    """The neighbour goes by the keys, round their end, whatever the places in the container."""
    index = synthetic_index(5, 2)
    index.keys[:] = [30, 10, 50, 20, 40]
    bad.update((2, 1))
    replacements = Replacements(index)
    replacements.add(2, "planted")  # the greatest key; the least belongs to 1, which is bad too
    assert replacements.by_sample == {2: 3, 1: 3}


def test_none_decodes(bad: set[int]) -> None:
    """Looking for a neighbour ends."""
    bad.update(range(5))
    with pytest.raises(UserError, match=r"must hold an image that decodes. Found: none"):
        Replacements(synthetic_index(5, 2)).add(3, "planted")
