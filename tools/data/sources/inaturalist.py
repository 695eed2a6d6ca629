"""iNaturalist 2018 and 2019, whose JSON files say which image is in which split and class.

Source: https://github.com/visipedia/inat_comp; DeiT's datasets.py reads the same files. It numbers
classes by their first image in the training JSON, this by category id, so a head that was
fine-tuned there has its outputs in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import SPLITS, Names
from fastdeit.text.json_text import parse_json
from fastdeit.tools.data.sources.held_files import list_held_files
from fastdeit.tools.data.sources.listing import Listing

YEARS = ("2018", "2019")


def find_year(root: Path) -> str | None:
    """The year whose JSON files a folder holds; None without any, UserError for both years."""
    found = [
        year
        for year in YEARS
        if any((root / f"{split}{year}.json").is_file() for split in ("train", "val"))
    ]
    if len(found) > 1:
        raise UserError(
            f"iNaturalist must be one year's. Found: JSON files of {' and '.join(found)} in "
            f"{root}. Move those of one year to a folder of their own."
        )
    return found[0] if found else None


def list_inaturalist(root: Path, split: str | None = None) -> Listing:
    """List the images of a split, in the order of its JSON file; train unless val is given.

    `root` holds train2018.json, val2018.json and the folder train_val2018 (or those of 2019);
    categories.json is read for the names of species, if it is there. Classes are numbered by the
    category ids of the training JSON, in ascending order. Raises UserError if there is no such
    split, or a file is missing or inconsistent.
    """
    if SPLITS.get(split or "train") not in ("train", "val"):
        raise UserError(
            f"split of iNaturalist must be train or val. Found: {split}. Pass --split val for the "
            "images that it is evaluated on; those of test have no labels."
        )
    year = find_year(root) or YEARS[0]
    train = _read_json(root / f"train{year}.json")
    file = root / f"{SPLITS[split or 'train']}{year}.json"
    content = train if file.name.startswith("train") else _read_json(file)
    try:
        categories = {int(entry["id"]): str(entry["name"]) for entry in train["categories"]}
        category_of = {each["image_id"]: each["category_id"] for each in content["annotations"]}
        images = [(str(each["file_name"]), each["id"]) for each in content["images"]]
        ids = sorted(categories)
        class_of = {category: number for number, category in enumerate(ids)}
        labels = [class_of[category_of[number]] for _, number in images]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "the JSON files must list images, annotations and categories that belong together. "
            f"Found: {type(error).__name__} {error} in {file}. Download {file.name} again."
        ) from error
    _check_paths([name for name, _ in images], file)
    species = _read_species(root / "categories.json")
    names = Names.of(name for name, _ in images)
    return list_held_files(
        root,
        f"iNaturalist {year}",
        names,
        np.array(labels, np.int64),
        [str(category) for category in ids],
        [species.get(category, categories[category]) for category in ids],
        find_files(root, names),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"iNaturalist must have its JSON files. Found: no {file.name} in {file.parent}. "
            "Download it from github.com/visipedia/inat_comp; train's numbers the classes."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"iNaturalist's files must be JSON. Found: {error} in {file}. Download it again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file.name} must be a JSON object. Found: a {type(content).__name__} in {file}. "
            "Download it again."
        )
    return content


def _read_species(file: Path) -> dict[int, str]:
    """The names of species by category id, from the list that came after the competition."""
    try:
        entries = parse_json(file.read_bytes())
        return {int(entry["id"]): str(entry["name"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _check_paths(names: list[str], file: Path) -> None:
    """Refuse paths that would leave the folder."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(
                f"file_name must stay below the folder of {file.name}. Found: {name} in {file}. "
                f"Download {file.name} again."
            )


def find_files(root: Path, names: Names) -> Names:
    """Where the images are: as the JSON says, or without the super-category, as DeiT wants it.

    A name is such as "train_val2018/Plantae/7477/0123.jpg".
    """
    if not len(names) or (root / names[0]).is_file():
        return names
    short = Names.of(_without_super_category(name) for name in names)
    return short if (root / short[0]).is_file() else names


def _without_super_category(name: str) -> str:
    """The path without its second of four parts."""
    parts = name.split("/")
    return "/".join((parts[0], *parts[2:])) if len(parts) == 4 else name


def choose_version(root: Path, split: str | None, versions: list[str]) -> str:
    """The argument `version` of torchvision's INaturalist, for folders without JSON files.

    `root` holds a folder named like a version; 2021 alone has train and val as folders. Raises
    UserError if there is no such folder, or it is not clear which.
    """
    found = [version for version in versions if (root / version).is_dir()]
    if split is not None:
        endings = {"train": ("_train", "_train_mini"), "val": ("_valid",)}
        ending = endings.get(SPLITS.get(split, split), ())
        found = [version for version in found if ending and version.endswith(ending)]
    if len(found) == 1:
        return found[0]
    raise UserError(
        "iNaturalist must have train2018.json and val2018.json (or 2019's), which a split is read "
        f"from, or be one of torchvision's folders, {', '.join(versions)}. Found: "
        f"{' and '.join(found) or 'neither'} in {root}{f' for split {split}' if split else ''}. "
        "Download the JSON files from github.com/visipedia/inat_comp."
    )
