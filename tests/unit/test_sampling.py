"""Unequal classes: each has its exact share of an epoch, and all of its images have theirs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import train_plan
from fastdeit.pipelines.plan.order import Plan
from fastdeit.pipelines.teacher_labels import _settings_of
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.cli import main

SIZES = (700, 250, 40, 10, 3)
LABELS = np.random.default_rng(1).permutation(np.repeat([4, 0, 7, 2, 3], SIZES))
"""Of 1,003 images; classes 1, 5 and 6 have none."""
KEYS = np.random.default_rng(0).integers(0, 2**63, len(LABELS)).astype(np.uint64)
OF_SIZE = dict(zip([4, 0, 7, 2, 3], SIZES, strict=True))
KINDS: tuple[Literal["sqrt", "balanced"], ...] = ("sqrt", "balanced")


def make_plan(sampling: str = "balanced", **changes: Any) -> Plan:
    """A training plan over the images."""
    values: dict[str, Any] = {
        "keys": KEYS,
        "labels": LABELS,
        "batch_size": 48,
        "image_size": 32,
        "is_training": True,
        "repeats": 3,
        "sampling": sampling,
        **changes,
    }
    return Plan(**values)


def test_natural_is_as_it_was() -> None:
    """The order of the images is that of every version before."""
    for repeats, expected in ((1, "0a6e5af0d000183b"), (3, "af1c56422195cfb2")):
        found = hashlib.sha256()
        for column in make_plan("natural", labels=None, repeats=repeats, seed=4).stream(7):
            found.update(column.astype("<i8").tobytes())
        assert found.hexdigest()[:16] == expected


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("sampling", KINDS)
def test_shares_are_exact(sampling: Any, repeats: int) -> None:
    """Rounded in an epoch and even over forty; the images of a class differ by one showing."""
    plan = make_plan(sampling, repeats=repeats, seed=2)
    weights = {c: 1.0 if sampling == "balanced" else n**0.5 for c, n in OF_SIZE.items()}
    total = {"balanced": 5.0, "sqrt": sum(n**0.5 for n in SIZES)}[sampling]
    shown = np.zeros(len(KEYS), dtype=np.int64)
    for epoch in range(40):
        samples, copies = plan.stream(epoch)
        assert (
            len(samples)
            == plan.epoch_samples
            == make_plan("natural", repeats=repeats).epoch_samples
        )
        images = samples[copies % repeats == 0]
        shown += np.bincount(images, minlength=len(KEYS))
        for label, weight in weights.items():
            share = len(images) * weight / total
            assert abs((LABELS[images] == label).sum() - share) < 1, (epoch, label)
            assert abs(shown[LABELS == label].sum() - (epoch + 1) * share) < 3, (epoch, label)
            assert np.ptp(shown[LABELS == label]) <= 1, (epoch, label)


@pytest.mark.parametrize("sampling", KINDS)
def test_each_showing_is_another(sampling: Any) -> None:
    """An image that comes again has copies of other numbers, and its three stay together."""
    samples, copies = make_plan(sampling).stream(3)
    assert len({*zip(samples.tolist(), copies.tolist(), strict=True)}) == len(samples)
    first = np.flatnonzero(copies % 3 == 0)
    for place in first[first < len(samples) - 2].tolist():
        assert len({*samples[place : place + 3].tolist()}) == 1
        assert np.array_equal(np.diff(copies[place : place + 3]), [1, 1])
    for sample in np.flatnonzero(LABELS == 3).tolist():
        numbers = np.sort(copies[samples == sample])
        assert len(numbers) >= 6 and abs(numbers - np.arange(len(numbers))).max() <= 2


@pytest.mark.parametrize("sampling", KINDS)
def test_epochs_differ(sampling: Any) -> None:
    """Rare images come in another order in each epoch, and with another seed."""
    streams = [
        make_plan(sampling, seed=seed).stream(epoch)[0] for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for one in range(3):
        assert not np.array_equal(streams[one], streams[one - 1])


@pytest.mark.parametrize("sampling", KINDS)
def test_processes_and_seeks(sampling: Any) -> None:
    """Any number of processes shows the same steps, and a run that goes on the rest of them."""
    whole = make_plan(sampling).stream(5)
    for world_size in (2, 5):
        plans = [make_plan(sampling, rank=r, world_size=world_size) for r in range(world_size)]
        for column, name in zip(whole, ("samples", "copies"), strict=True):
            steps = zip(*(plan.steps(5, first_step=2) for plan in plans), strict=True)
            found = np.concatenate([getattr(part, name) for step in steps for part in step])
            assert np.array_equal(found, column[96 : 48 * plans[0].num_steps])


@pytest.mark.parametrize("sampling", KINDS)
def test_order_goes_by_key(sampling: Any) -> None:
    """Neither the place of an image in a container nor the number of its class counts."""
    shuffle = np.random.default_rng(2).permutation(len(KEYS))
    other = make_plan(sampling, keys=KEYS[shuffle], labels=9 - LABELS[shuffle])
    one, two = make_plan(sampling).stream(3), other.stream(3)
    assert np.array_equal(KEYS[one[0]], KEYS[shuffle][two[0]])
    assert np.array_equal(one[1], two[1])


def test_fewer_draws_than_classes() -> None:
    """Each class has its turn over the epochs, as often as the others."""
    keys = np.random.default_rng(3).integers(0, 2**63, 30).astype(np.uint64)
    plan = make_plan(keys=keys, labels=np.arange(30), batch_size=6, repeats=4)
    draws = [plan.stream(epoch)[0][::4] for epoch in range(60)]
    assert all(len(each) == 8 for each in draws)
    assert np.ptp(np.bincount(np.concatenate(draws), minlength=30)) <= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampling": "even"},
            r"sampling of a plan must be natural, sqrt or balanced. Found",
        ),
        ({"order": "upstream"}, r"sampling of a plan must be natural in upstream's order"),
        ({"labels": None}, r"labels of a plan must be the class of each sample. Found: None"),
        ({"labels": LABELS[:-1]}, r"labels of a plan must be the class of each sample"),
    ],
)
def test_impossible_plans(changes: dict[str, Any], message: str) -> None:
    """Each is one error with the rule."""
    with pytest.raises(UserError, match=message):
        make_plan(**changes)


def test_upstream_has_no_other_sampling() -> None:
    """The options are refused before anything is opened."""
    config = fill_recipe("demo-teacher", Path("x"))
    with pytest.raises(UserError, match=r"sampling must be natural with --compat upstream, .*sqrt"):
        changed(config, data={"sampling": "sqrt"}, run={"compat": "upstream"})


def test_a_store_of_labels_is_of_the_same_classes() -> None:
    """The order follows from which images are of one class, whatever its number."""
    config = fill_recipe("demo", Path("x"))
    config = changed(config, data={"sampling": "balanced", "batch_size": 32})
    index = synthetic_index(90, 9)
    renumbered = replace(index, labels=8 - index.labels)
    moved = replace(index, labels=np.append(index.labels[1:], 3))

    def settings(index: Any, config: Any = config) -> dict[str, Any]:
        return _settings_of(config, train_plan(config.data, index, config.run), index)

    assert settings(index) == settings(renumbered) != settings(moved)
    natural = changed(config, data={"sampling": "natural"})
    assert settings(index, natural) == settings(moved, natural)
    assert "data.sampling" not in settings(index, natural)


def test_dry_run_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no training set yet, classes of one size stand in, which is said."""
    line = ["train", "deit-ti", "--train", str(tmp_path / "none"), "--val", "x", "--out", "y"]
    assert main([*line, "--dry-run", "--sampling", "balanced", "--repeats", "1"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert "classes of one size" in derived["num_train_images_from"]
    assert derived["images_per_epoch"] - derived["distinct_images_per_epoch"] < 1000
