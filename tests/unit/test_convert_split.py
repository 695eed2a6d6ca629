"""One folder in two parts, of which more images move nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.verify import verify


def add_images(source: Path, first: int, last: int) -> None:
    """Images of three classes, the third of which has one of all."""
    for number in range(first, last):
        file = source / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 250, 0, 0)).save(file)
    (source / "c").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(source / "c" / "only.jpg")


def split(source: Path, folder: Path, **options: Any) -> tuple[DatasetIndex, DatasetIndex]:
    """Both parts, as they are opened."""
    settings = {"split_val": 0.25, "val_out": folder / "val.beton", "workers": 1, **options}
    assert convert(source, folder / "train.beton", **settings) == 0
    return open_dataset(folder / "train.beton"), open_dataset(settings["val_out"])


def names(index: DatasetIndex) -> set[str]:
    """What is in a part."""
    assert index.names is not None
    return set(index.names)


def test_more_images_move_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each image is in one part, a class as in the whole, and stays where it is."""
    source = tmp_path / "set"
    add_images(source, 0, 400)
    train, val = split(source, tmp_path / "1")
    said = capsys.readouterr().err
    assert said.count(f"{source}, validation part: class 2 (c) has no image") == 1
    assert "train part" not in said
    assert names(train) | names(val) == {
        file.relative_to(source).as_posix() for file in source.rglob("*.jpg")
    }
    assert names(train).isdisjoint(names(val))
    assert train.class_ids == val.class_ids == ("a", "b", "c")
    for label in (0, 1):
        assert 30 < int((val.labels == label).sum()) < 70  # 50, give or take three deviations
    add_images(source, 400, 500)
    more_train, more_val = split(source, tmp_path / "2")
    assert names(train) < names(more_train)
    assert names(val) < names(more_val)
    _, other = split(source, tmp_path / "3", split_seed=1)
    assert len(names(other) & names(more_val)) < 60  # a quarter of them by chance


def test_it_goes_on_and_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad image stops it; mended, both are made; a second run finds them; parts join to them."""
    source = tmp_path / "set"
    add_images(source, 0, 60)
    train, val = split(source, tmp_path / "1")
    last = str(val.names[len(val) - 1]) if val.names is not None else ""
    before = (source / last).read_bytes()
    (source / last).write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"every image must decode. Found: {last}"):
        split(source, tmp_path / "2")
    (source / last).write_bytes(before)
    again = split(source, tmp_path / "2")
    for one, two in zip((train, val), again, strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()
        assert verify(two.path, workers=1) == 0
    capsys.readouterr()
    split(source, tmp_path / "2", source_changed="ignore")
    assert capsys.readouterr().err.count("is already there") == 2
    for part in ("1/2", "2/2"):
        out, val_out = tmp_path / "3" / "train.beton", tmp_path / "3" / "val.beton"
        options: dict[str, Any] = {"split_val": 0.25, "val_out": val_out, "part": part}
        assert convert(source, out, workers=1, **options) == 0
    for joined, whole in ((out, train), (val_out, val)):
        assert merge(joined) == 0
        assert joined.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_out": None}, "a split needs its share and a place for it. Found: --split-val alone"),
        ({"split_val": None}, "Found: --val-out alone"),
        ({"split_val": 1.0}, "split-val must be between 0 and 1. Found: 1.0"),
        ({"val_out": "train.beton"}, "val-out must be another one than OUT"),
        ({"split_val": 1e-9}, "each part of a split must hold an image. Found: none of 9 to valid"),
        ({"split_val": 1 - 1e-9}, "Found: none of 9 to train on"),
        ({"split_val": None, "val_out": None, "split_seed": 3}, "split-seed is for --split-val"),
    ],
)
def test_wrong_splits(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One clear error, and nothing is written."""
    add_images(tmp_path / "set", 0, 8)
    if options.get("val_out"):
        options = {**options, "val_out": tmp_path / options["val_out"]}
    with pytest.raises(UserError, match=message):
        split(tmp_path / "set", tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_parts_may_be_of_two_kinds(tmp_path: Path) -> None:
    """A .beton to train on, shards to validate with; both say of which split they are."""
    add_images(tmp_path / "set", 0, 40)
    train, val = split(tmp_path / "set", tmp_path, val_out=tmp_path / "shards")
    assert (train.container, val.container) == ("beton", "webdataset")
    assert train.made_by["parameters"]["split"] == [0.25, 0, False]
    assert val.made_by["parameters"]["split"] == [0.25, 0, True]
    assert np.intersect1d(train.keys, val.keys).size == 0
