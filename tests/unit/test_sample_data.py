"""`fastdeit sample-data`: the same files every time, every oddity, both layouts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastdeit.tools.data import workers
from fastdeit.tools.data.sample_data.classes import CLASSES
from fastdeit.tools.data.sample_data.command import RECORD, sample_data
from fastdeit.tools.data.sample_data.photos import make_photo
from fastdeit.tools.data.sample_data.scenes import (
    BROKEN,
    TRAIN_ODDITIES,
    VAL_ODDITIES,
    Picture,
    make_picture,
)

pytestmark = pytest.mark.slow  # as a whole

for module in ("skimage", "sklearn"):
    pytest.importorskip(module, reason=f"the photographs of {module} are not installed")

NUM_TRAIN, NUM_VAL = 45, 20
DEVKIT = "ILSVRC2012_devkit_t12"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small source with everything in it, in this process."""
    root = tmp_path_factory.mktemp("sample") / "source"
    assert sample_data(root, NUM_TRAIN, NUM_VAL, broken=True, workers=1) == 0
    return root


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the same pictures as the archives of ILSVRC 2012."""
    pytest.importorskip("scipy", reason="meta.mat needs scipy")
    root = tmp_path_factory.mktemp("sample") / "archives"
    code = sample_data(root, NUM_TRAIN, NUM_VAL, layout="ilsvrc", broken=True, workers=1)
    assert code == 0
    return root


def digests(root: Path) -> dict[str, str]:
    """Hash every file below `root` by its path."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def odd_file(root: Path, split: str, kind: str) -> bytes:
    """Read the file that the record names for an oddity."""
    oddities = json.loads((root / RECORD).read_text())["oddities"]
    paths = [one["path"] for one in oddities if one["kind"] == kind]
    (path,) = [root / path for path in paths if path.startswith(split)]
    data: bytes = path.read_bytes()
    return data


def jpeg_markers(data: bytes) -> dict[int, bytes]:
    """Read a JPEG's segments up to the first scan, by marker."""
    segments, place = {}, 2
    while data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segments[data[place + 1]] = data[place + 4 : place + 2 + length]
        place += 2 + length
    return segments


# ---- the same files every time


def test_files_do_not_depend_on_workers_or_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes write the same bytes as one, however many tasks wait."""
    monkeypatch.setattr(workers, "CHUNK", 1)
    again = tmp_path / "again"
    sample_data(again, NUM_TRAIN, NUM_VAL, broken=True, workers=2)
    assert digests(again) == digests(source)


def test_a_picture_does_not_depend_on_how_many_there_are(source: Path, tmp_path: Path) -> None:
    """A smaller source holds the first pictures of the larger one."""
    small = tmp_path / "small"
    sample_data(small, 25, NUM_VAL, broken=True, workers=1)
    of_small = {k: v for k, v in digests(small).items() if k.startswith("train/")}
    assert len(of_small) == 25
    assert of_small.items() <= digests(source).items()


def test_another_seed_gives_other_pictures() -> None:
    """Seed, split, class and index each change the picture."""
    one = Picture("train", 1, 3)
    others = [Picture("val", 1, 3), Picture("train", 3, 3), Picture("train", 1, 4)]
    files = [make_picture(0, one), make_picture(1, one), *(make_picture(0, p) for p in others)]
    assert len(set(files)) == len(files)
    assert make_picture(0, one) == files[0]


def test_make_photo_is_deterministic_and_distinct() -> None:
    """The function for benchmarks gives the size asked for and another picture each index."""
    files = [make_photo(0, index, size=(96, 64)) for index in range(20)]
    assert len(set(files)) == 20
    assert files[7] == make_photo(0, 7, size=(96, 64))
    assert files[7] != make_photo(1, 7, size=(96, 64))
    assert Image.open(io.BytesIO(files[0])).size == (96, 64)
    assert len(make_photo(0, 0, quality=95)) > len(make_photo(0, 0, quality=60))


# ---- what is in it


def test_classes_have_equal_shares(source: Path) -> None:
    """Every class has its share of both splits, give or take one, and all files are distinct."""
    for split, total in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        files = list((source / split).rglob("*.JPEG"))
        shares = Counter(path.parent.name for path in files)
        assert set(shares) == {one.wnid for one in CLASSES}
        assert sum(shares.values()) == total
        assert max(shares.values()) - min(shares.values()) <= 1
    hashes = [value for name, value in digests(source).items() if name.endswith(".JPEG")]
    assert len(set(hashes)) == NUM_TRAIN + NUM_VAL


def test_names_are_those_of_imagenet(source: Path) -> None:
    """Train files carry their class, val files one running number over shuffled classes."""
    assert all(p.name.startswith(p.parent.name + "_") for p in (source / "train").rglob("*.JPEG"))
    val = sorted((source / "val").rglob("*.JPEG"), key=lambda path: path.name)
    numbers = range(1, NUM_VAL + 1)
    assert [path.name for path in val] == [f"ILSVRC2012_val_{n:08d}.JPEG" for n in numbers]
    classes = [path.parent.name for path in val]
    assert classes not in (sorted(classes), [one.wnid for one in CLASSES])


def test_mapping_names_every_class(source: Path) -> None:
    """LOC_synset_mapping.txt has Kaggle's format and order, outside WordNet's range."""
    lines = (source / "LOC_synset_mapping.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    assert sorted(pairs) == pairs
    assert dict(pairs) == {one.wnid: one.words for one in CLASSES}
    assert len(pairs) == 20
    assert all(len(wnid) == 9 and int(wnid[1:]) > 20_000_000 for wnid, _ in pairs)


def test_usual_files_are_usual_jpegs(source: Path) -> None:
    """What is not an oddity is a baseline 4:2:0 RGB JPEG between 188 and 640 pixels."""
    record = json.loads((source / RECORD).read_text())
    odd = {one["path"] for one in record["oddities"]}
    for path in source.rglob("*.JPEG"):
        if str(path.relative_to(source)) not in odd:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB"), path
                assert 188 <= min(image.size) <= max(image.size) <= 640, path
            frame = jpeg_markers(data)[0xC0]
            assert frame[7] == 0x22, path
            assert 0xDD not in jpeg_markers(data), path


def test_record_says_what_was_made(source: Path) -> None:
    """sample-data.json has options, versions, counts and a place for every oddity."""
    record = json.loads((source / RECORD).read_text())
    assert record["parameters"]["seed"] == 0
    assert record["parameters"]["train_images"] == NUM_TRAIN
    assert {"scikit-image", "scikit-learn", "matplotlib", "pillow"} <= set(record["packages"])
    num_bytes = sum(path.stat().st_size for path in source.rglob("*.JPEG"))
    assert record["counts"] == {
        "classes": 20, "train": NUM_TRAIN, "val": NUM_VAL, "bytes": num_bytes,
    }  # fmt: skip
    kinds = Counter((one["path"].split("/")[0], one["kind"]) for one in record["oddities"])
    expected = [("train", kind) for kind in TRAIN_ODDITIES + BROKEN]
    assert kinds == Counter(expected + [("val", kind) for kind in VAL_ODDITIES])


# ---- oddities


def is_mode(mode: str) -> Callable[[bytes, Image.Image], bool]:
    """Make a check of format and colour model."""
    return lambda _, image: image.format == "JPEG" and image.mode == mode


def is_turned(orientation: int) -> Callable[[bytes, Image.Image], bool]:
    """Make a check of the EXIF orientation."""
    return lambda _, image: image.getexif().get(0x0112) == orientation


CHECKS: dict[str, Callable[[bytes, Image.Image], bool]] = {
    "cmyk": is_mode("CMYK"),
    "grey": is_mode("L"),
    "png": lambda _, image: image.format == "PNG",
    "exif-3": is_turned(3),
    "exif-6": is_turned(6),
    "exif-8": is_turned(8),
    "progressive": lambda data, _: 0xC2 in jpeg_markers(data),
    "tiny": lambda _, image: image.size == (20, 17),
    "huge": lambda data, image: image.size == (4000, 3000) and len(data) <= 4 * 2**20,
    "4:4:4": lambda data, _: jpeg_markers(data)[0xC0][7] == 0x11,
    "restart-interval": lambda data, _: int.from_bytes(jpeg_markers(data)[0xDD], "big") > 0,
}


@pytest.mark.parametrize(
    ("split", "kind"),
    [("train", kind) for kind in TRAIN_ODDITIES] + [("val", kind) for kind in VAL_ODDITIES],
)
def test_oddity_is_what_it_says(source: Path, split: str, kind: str) -> None:
    """Each oddity has its property and can be decoded."""
    data = odd_file(source, split, kind)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert CHECKS[kind](data, image)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotation_shows_the_picture_upright(orientation: int) -> None:
    """Applying the tag gives the picture that the same numbers give without a tag."""
    from PIL import ImageChops, ImageOps, ImageStat

    turned = Image.open(io.BytesIO(make_picture(0, Picture("train", 1, 0, f"exif-{orientation}"))))
    plain = Image.open(io.BytesIO(make_picture(0, Picture("train", 1, 0))))
    upright = ImageOps.exif_transpose(turned)
    assert upright is not None
    assert upright.size == plain.size
    difference = max(ImageStat.Stat(ImageChops.difference(upright, plain)).mean)
    # The two are encoded in different block grids, so they differ by JPEG's loss only.
    assert difference < 3, f"mean difference {difference:.2f} of 255"


def test_broken_files_are_broken(source: Path) -> None:
    """The truncated file has a header but no whole picture; the empty one has nothing."""
    data = odd_file(source, "train", "truncated")
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        with pytest.raises(OSError, match="truncated"):
            image.load()
    assert odd_file(source, "train", "empty") == b""


def test_without_broken_every_file_decodes(source: Path, tmp_path: Path) -> None:
    """The option changes the two broken files and no other."""
    sample_data(tmp_path / "whole", NUM_TRAIN, NUM_VAL, workers=1)
    before, after = digests(source), digests(tmp_path / "whole")
    changed = {name for name in before if before[name] != after[name]} - {RECORD}
    assert len(changed) == 2
    for name in changed:
        with Image.open(tmp_path / "whole" / name) as image:
            image.load()


# ---- the archives


def test_archives_hold_the_files_of_the_folder(source: Path, archives: Path) -> None:
    """Nested train archives and the flat val archive have the folder's bytes."""
    found = {}
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as outer:
        assert outer.getnames() == sorted(f"{one.wnid}.tar" for one in CLASSES)
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for one in inner:
                    file = inner.extractfile(one)
                    assert file is not None
                    found[f"train/{member.name[:-4]}/{one.name}"] = file.read()
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as flat:
        folders = {path.name: path.parent.name for path in (source / "val").rglob("*.JPEG")}
        assert flat.getnames() == sorted(folders)
        for member in flat:
            file = flat.extractfile(member)
            assert file is not None
            found[f"val/{folders[member.name]}/{member.name}"] = file.read()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    assert hashes == {k: v for k, v in digests(source).items() if k.endswith(".JPEG")}


def test_devkit_gives_the_labels_of_the_folder(source: Path, archives: Path) -> None:
    """Ground truth and meta.mat, read the way torchvision reads them, name each val class."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    with tarfile.open(archives / f"{DEVKIT}.tar.gz") as kit:
        truth = kit.extractfile(f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt")
        meta = kit.extractfile(f"{DEVKIT}/data/meta.mat")
        assert truth is not None
        assert meta is not None
        labels = [int(line) for line in truth.read().split()]
        synsets = loadmat(io.BytesIO(meta.read()), squeeze_me=True)["synsets"]
    assert synsets.dtype.names == (
        "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
        "num_train_images",
    )  # fmt: skip
    leaves = [row for row in synsets if row["num_children"] == 0]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    assert sorted(wnids) == list(range(1, 21))
    assert list(wnids.values()) != sorted(wnids.values())
    assert sum(int(row["num_train_images"]) for row in leaves) == NUM_TRAIN
    val = sorted((source / "val").rglob("*.JPEG"), key=lambda path: path.name)
    assert [wnids[label] for label in labels] == [path.parent.name for path in val]


def test_archives_are_the_same_every_time(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No archive holds the time it was written at."""
    for name in ("time.time", "time.asctime"):
        value: object = 1.0e9 if name == "time.time" else "another day"
        monkeypatch.setattr(name, lambda *_, value=value: value)
    sample_data(tmp_path / "again", NUM_TRAIN, NUM_VAL, layout="ilsvrc", broken=True, workers=1)
    assert digests(tmp_path / "again") == digests(archives)
