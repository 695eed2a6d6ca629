"""iNaturalist: splits and classes as the JSON files of 2018 and 2019 say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets
from PIL import Image

from fastdeit import UserError
from fastdeit.tools.data.sources.vision_sets import list_vision_set

# Out of order, with a gap, and not in the order of the images.
CATEGORIES = [(7, "Quercus robur"), (2, "Bufo bufo"), (31, "Apis mellifera")]
TRAIN = [(50, 31), (9, 2), (51, 7), (52, 2)]
VAL = [(70, 7), (71, 31)]


def path_of(number: int, category: int, year: int = 2018) -> str:
    """Where the JSON files say that an image is."""
    return f"train_val{year}/Plantae/{category}/{number:04d}.jpg"


def write_json(root: Path, split: str, rows: list[tuple[int, int]], **other: Any) -> None:
    """One of the competition's JSON files, and its images."""
    content = {
        "images": [
            {"id": number, "file_name": path_of(number, category)} for number, category in rows
        ],
        "annotations": [
            {"id": 1000 - number, "image_id": number, "category_id": category}
            for number, category in reversed(rows)
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": "Plantae"} for number, name in CATEGORIES
        ],
    }
    (root / f"{split}2018.json").write_text(json.dumps(content | other))
    for number, category in rows:
        file = root / path_of(number, category)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5), (number, 0, category)).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small iNaturalist 2018."""
    write_json(tmp_path, "train", TRAIN)
    write_json(tmp_path, "val", VAL, categories=[])
    return tmp_path


def test_splits(root: Path) -> None:
    """Classes are the training JSON's category ids in order, for both splits."""
    train, val = list_vision_set(root, "inaturalist"), list_vision_set(root, "INaturalist", "val")
    assert list(train.names) == [path_of(*row) for row in TRAIN]
    assert train.labels.tolist() == [2, 0, 1, 0]
    assert val.labels.tolist() == [1, 2]
    assert train.class_ids == val.class_ids == ["2", "7", "31"]
    assert val.class_names == ["Bufo bufo", "Quercus robur", "Apis mellifera"]
    assert val.requests[1].read() == (root / path_of(*VAL[1])).read_bytes()
    assert train.sizes[0] == (root / path_of(*TRAIN[0])).stat().st_size
    assert val.kind == "iNaturalist 2018"


def test_species_of_a_file_beside(root: Path) -> None:
    """Names come from categories.json where it is there: the competition's were hidden."""
    species = [{"id": 7, "name": "Quercus petraea", "kingdom": "Plantae"}]
    (root / "categories.json").write_text(json.dumps(species))
    names = list_vision_set(root, "INaturalist").class_names
    assert names == ["Bufo bufo", "Quercus petraea", "Apis mellifera"]


def test_folders_as_deit_wants_them(root: Path) -> None:
    """Without the super-category in the path an image is found and keeps its name, and key."""
    before = list_vision_set(root, "INaturalist")
    data = before.requests[0].read()
    for folder in (root / "train_val2018/Plantae").iterdir():
        folder.rename(root / "train_val2018" / folder.name)
    after = list_vision_set(root, "INaturalist")
    assert after.fingerprint == before.fingerprint
    assert after.requests[0].read() == data


def test_what_is_missing(root: Path) -> None:
    """No such split, a JSON file that is not there, or those of two years, are errors."""
    with pytest.raises(UserError, match=r"must be train or val\. Found: test\."):
        list_vision_set(root, "INaturalist", "test")
    (root / "train2018.json").rename(root / "x")
    with pytest.raises(UserError, match=r"Found: no train2018\.json in"):
        list_vision_set(root, "INaturalist", "val")
    (root / "x").rename(root / "train2019.json")
    with pytest.raises(UserError, match="JSON files of 2018 and 2019 in"):
        list_vision_set(root, "INaturalist", "val")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"annotations": []}, "belong together. Found: KeyError 50 in"),
        ({"categories": [{"id": 2, "name": "x"}]}, "belong together. Found: KeyError 31 in"),
        ({"images": [{"id": 50}]}, "Found: KeyError 'file_name' in"),
        ({"images": [{"id": 50, "file_name": "a/../../b"}]}, r"must stay below .*a/\.\./\.\./b in"),
        ({"images": []}, "must hold images. Found: none in"),
        ({"images": [{"id": 50, "file_name": path_of(50, 31)}] * 2}, "Found: one twice in"),
        ({"images": [{"id": 50, "file_name": "nothing"}]}, "none of 1 is there, .*nothing first"),
    ],
)
def test_json_files_that_do_not_fit(root: Path, other: dict[str, Any], message: str) -> None:
    """JSON that contradicts itself or the folder is one clear error."""
    write_json(root, "train", TRAIN, **other)
    with pytest.raises(UserError, match=message):
        list_vision_set(root, "INaturalist")


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_json_files_that_are_none(root: Path, content: bytes) -> None:
    """What is no JSON object is refused."""
    (root / "train2018.json").write_bytes(content)
    with pytest.raises(UserError, match=r"must be (a )?JSON.*Download it again"):
        list_vision_set(root, "INaturalist")


def test_folders_against_torchvision(tmp_path: Path) -> None:
    """Without JSON files a folder of torchvision's is taken whole, in the order of its names."""
    for number, category in enumerate(("Plantae/1", "Plantae/1", "Aves/0", "Aves/2")):
        file = tmp_path / f"2018/{category}/{9 - number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5), (number, 0, 0)).save(file)
    peer = torchvision.datasets.INaturalist(tmp_path, "2018")
    expected = sorted(
        (f"2018/{peer.all_categories[label]}/{file}", label) for label, file in peer.index
    )
    listing = list_vision_set(tmp_path, "INaturalist")
    assert list(zip(listing.names, listing.labels.tolist(), strict=True)) == expected
    assert listing.class_ids == ["0", "1", "2"]
    assert listing.requests[3].read() == (tmp_path / expected[3][0]).read_bytes()
    with pytest.raises(UserError, match=r"must have train2018\.json.* Found: neither in .* split"):
        list_vision_set(tmp_path, "INaturalist", "train")


def test_the_split_of_2021_is_a_folder(tmp_path: Path) -> None:
    """The folders 2021_train and 2021_valid are splits."""
    for split in ("train", "valid"):
        file = tmp_path / f"2021_{split}/00000_A_b_c_d_e_f_g/x.jpg"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (4, 5)).save(file)
    listing = list_vision_set(tmp_path, "INaturalist", "val")
    assert list(listing.names) == ["2021_valid/00000_A_b_c_d_e_f_g/x.jpg"]
    with pytest.raises(UserError, match="Found: 2021_train and 2021_valid in"):
        list_vision_set(tmp_path, "INaturalist")
