"""The archives of ILSVRC 2012 are listed in place, as the same images in folders would be."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.tools.data.sources.ilsvrc import list_flat_val, list_ilsvrc, looks_like_ilsvrc
from fastdeit.tools.data.sources.listing import Listing

pytest.importorskip("scipy", reason="the development kit needs scipy")

KIT = "ILSVRC2012_devkit_t12"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pictures in both layouts."""
    for module in ("skimage", "sklearn"):
        pytest.importorskip(module, reason=f"the photographs of {module} are not installed")
    from fastdeit.tools.data.sample_data.command import sample_data

    root = tmp_path_factory.mktemp("sources")
    for layout in ("folder", "ilsvrc"):
        assert sample_data(root / layout, 60, 20, layout=layout, workers=1) == 0  # type: ignore[arg-type]
    return {layout: root / layout for layout in ("folder", "ilsvrc")}


@pytest.fixture
def archives(sources: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the archives, to be changed."""
    return Path(shutil.copytree(sources["ilsvrc"], tmp_path / "ilsvrc"))


def check_equal(listing: Listing, folder: Path) -> None:
    """A listing has the names, labels, classes and bytes of an ImageFolder."""
    class_ids, names, labels, *_ = list_imagefolder(folder)
    assert listing.class_ids == class_ids
    found = dict(zip(listing.names, listing.labels.tolist(), strict=True))
    assert found == dict(zip(names, labels.tolist(), strict=True))
    assert len(listing) == len(names) == len(listing.requests)
    for number, name in enumerate(listing.names):
        data = (folder / name).read_bytes()
        assert listing.requests[number].read() == data
        assert listing.sizes[number] == len(data)


def flatten(sources: dict[str, Path], folder: Path) -> Path:
    """Put the images of val into one folder."""
    folder.mkdir(parents=True)
    for file in sources["folder"].glob("val/*/*"):
        shutil.copy(file, folder)
    return folder


def kaggle_table(sources: dict[str, Path], file: Path) -> Path:
    """Write Kaggle's table for the images of val."""
    rows = ["ImageId,PredictionString"]
    for image in sources["folder"].glob("val/*/*"):
        rows.append(f"{image.stem},{image.parent.name} 85 1 499 272 {image.parent.name} 3 4 5 6 ")
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.mark.parametrize("split", ["train", "val"])
def test_archives_hold_what_the_folders_hold(sources: dict[str, Path], split: str) -> None:
    """A split of the folder of archives equals the folder of the same pictures."""
    listing = list_ilsvrc(sources["ilsvrc"], split)
    check_equal(listing, sources["folder"] / split)
    assert listing.kind == "ilsvrc"
    words = dict(
        line.split(" ", 1)
        for line in (sources["folder"] / "LOC_synset_mapping.txt").read_text().splitlines()
    )
    assert listing.class_names == [words[class_id] for class_id in listing.class_ids]
    assert listing.fingerprint == list_ilsvrc(sources["ilsvrc"], split).fingerprint


def test_an_archive_may_have_any_name(archives: Path, sources: dict[str, Path]) -> None:
    """What an archive is, is told by its first member."""
    (archives / TRAIN).rename(archives / "a.tar")
    (archives / VAL).rename(archives / "b.bin")
    check_equal(list_ilsvrc(archives / "a.tar"), sources["folder"] / "train")
    check_equal(list_ilsvrc(archives / "b.bin", "val"), sources["folder"] / "val")
    check_equal(list_ilsvrc(archives), sources["folder"] / "train")


def test_an_archive_packed_again(archives: Path, sources: dict[str, Path]) -> None:
    """Members in another order and below ./ or a folder, and the folder's entry, are as good."""
    for name in (TRAIN, VAL):
        with tarfile.open(archives / name) as old, tarfile.open(archives / "new", "w") as new:
            folder = tarfile.TarInfo("./some")
            folder.type = tarfile.DIRTYPE
            new.addfile(folder)
            for member in reversed(old.getmembers()):
                content = old.extractfile(member)
                member.name = f"./some/{member.name}"
                new.addfile(member, content)
        (archives / "new").replace(archives / name)
    check_equal(list_ilsvrc(archives, "train"), sources["folder"] / "train")
    check_equal(list_ilsvrc(archives, "val"), sources["folder"] / "val")


@pytest.mark.parametrize("place", ["unpacked", "below", "given", "given csv", "kaggle", "tar"])
def test_labels_of_val_from_other_places(
    archives: Path, sources: dict[str, Path], tmp_path: Path, place: str
) -> None:
    """The development kit may be unpacked, or elsewhere if given; Kaggle's table serves too."""
    kit = archives / f"{KIT}.tar.gz"
    devkit = None
    if place == "unpacked":
        with tarfile.open(kit) as archive:
            archive.extractall(archives, filter="data")
    elif place == "below":
        devkit = tmp_path / "kits"
        with tarfile.open(kit) as archive:
            archive.extractall(devkit, filter="data")
    elif place == "given":
        devkit = Path(shutil.copy(kit, tmp_path / "kit.tgz"))
    elif place == "given csv":
        devkit = kaggle_table(sources, tmp_path / "a.csv")
    elif place == "kaggle":
        kaggle_table(sources, archives / "LOC_val_solution.csv")
    else:
        (archives / f"{KIT}.tar").write_bytes(gzip.decompress(kit.read_bytes()))
    kit.unlink()
    listing = list_ilsvrc(archives / VAL, devkit=devkit)
    check_equal(listing, sources["folder"] / "val")
    assert listing.fingerprint == list_ilsvrc(sources["ilsvrc"] / VAL).fingerprint


def test_flat_val_of_kaggle(sources: dict[str, Path], tmp_path: Path) -> None:
    """Kaggle's val images lie four folders below its table and the names of classes."""
    folder = flatten(sources, tmp_path / "ILSVRC/Data/CLS-LOC/val")
    kaggle_table(sources, tmp_path / "LOC_val_solution.csv")
    shutil.copy(sources["folder"] / "LOC_synset_mapping.txt", tmp_path)
    (folder / "README.txt").write_text("not an image")
    for listing in (list_flat_val(folder), list_ilsvrc(folder), list_ilsvrc(folder, "val")):
        check_equal(listing, sources["folder"] / "val")
        assert list(listing.names) == sorted(listing.names, key=lambda name: name[10:])
        assert "tabby, tabby cat" in listing.class_names


def test_flat_val_with_devkit(sources: dict[str, Path], tmp_path: Path) -> None:
    """A folder of val images is labelled by the development kit, which also names the classes."""
    folder = flatten(sources, tmp_path / "val")
    listing = list_flat_val(folder, sources["ilsvrc"] / f"{KIT}.tar.gz")
    check_equal(listing, sources["folder"] / "val")
    assert "tabby, tabby cat" in listing.class_names


def test_words_of_classes(archives: Path) -> None:
    """Without LOC_synset_mapping.txt the development kit names the classes, else their ids do."""
    (archives / "LOC_synset_mapping.txt").unlink()
    listing = list_ilsvrc(archives, "train")
    assert "tabby, tabby cat" in listing.class_names
    (archives / f"{KIT}.tar.gz").unlink()
    listing = list_ilsvrc(archives, "train")
    assert listing.class_names == listing.class_ids


def test_detection(sources: dict[str, Path], tmp_path: Path) -> None:
    """Archives and folders with them are recognised, and other folders and files are not."""
    archives, folder = sources["ilsvrc"], sources["folder"]
    for path in (archives, archives / TRAIN, archives / VAL, flatten(sources, tmp_path / "val")):
        assert looks_like_ilsvrc(path)
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "other" / "shard.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("n01440764_10026.jpg"))
    (tmp_path / "other" / "broken.tar").write_bytes(b"x" * 600)
    (tmp_path / "other" / "empty.tar").write_bytes(bytes(1024))
    for path in (folder, folder / "train", tmp_path / "other", tmp_path / "missing"):
        assert not looks_like_ilsvrc(path)
    assert not looks_like_ilsvrc(archives / f"{KIT}.tar.gz")


@contextlib.contextmanager
def edited(file: Path) -> Iterator[dict[str, bytes]]:
    """The members of a tar as a mapping, written back when the block ends."""
    with tarfile.open(file) as archive:
        members = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    yield members
    mode = "w:gz" if file.suffix == ".gz" else "w"
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def pack(names: list[str]) -> bytes:
    """A tar of empty files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def change(name: str, edit: Callable[[dict[str, bytes]], object]) -> Callable[[Path], None]:
    """A function that changes the members of one archive."""

    def apply(folder: Path) -> None:
        with edited(folder / name) as members:
            edit(members)

    return apply


TRUTH = f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt"
META = f"{KIT}/data/meta.mat"
DEVKIT = f"{KIT}.tar.gz"


@pytest.mark.parametrize(
    ("split", "damage", "found"),
    [
        (None, lambda _: None, f"Found: {TRAIN} .train., {VAL} .val., in .*train or val"),
        ("test", lambda _: None, "split must be train or val"),
        ("train", lambda f: shutil.copy(f / TRAIN, f / "b.tar"), "b.tar .train.,.* Give one"),
        ("train", lambda f: (f / TRAIN).unlink(), f"the train images .*Found: {VAL} .val., at"),
        ("train", change(TRAIN, lambda m: m.update({"x.txt": b""})), r"one tar a class.*: x\.txt"),
        (
            "train",
            change(TRAIN, lambda m: m.update({"b/n90098842.tar": b""})),
            "n90098842.tar again",
        ),
        (
            "train",
            change(TRAIN, lambda m: m.update({"n99999999.tar": pack([])})),
            "hold an image. Found: none in n99999999.tar in",
        ),
        (
            "train",
            change(TRAIN, lambda m: m.update({"n99999999.tar": b"damaged"})),
            "without an end mark, in n99999999.tar in",
        ),
        (
            "train",
            change(TRAIN, lambda m: m.update({"n99999999.tar": pack(["n01440764_1.JPEG"])})),
            r"n99999999_NUMBER.JPEG, each once. Found: n01440764_1\.JPEG, in n99999999.tar in",
        ),
        (
            "train",
            change(TRAIN, lambda m: m.update({"n99999999.tar": pack(["n99999999_1.JPEG"] * 2)})),
            r"each once. Found: n99999999_1\.JPEG, in n99999999.tar in",
        ),
        ("val", lambda f: (f / DEVKIT).unlink(), "need their labels.*Found: neither .*image-net"),
        ("val", change(VAL, lambda m: m.update({"x.JPEG": b""})), r"nothing else. Found: x\.JPEG"),
        (
            "val",
            change(VAL, lambda m: m.popitem()),
            "19 images .* for the 20 of .*, without number",
        ),
        (
            "val",
            change(VAL, lambda m: m.update({"ILSVRC2012_val_00000021.JPEG": b""})),
            "Found: 21 images .* for the 20 of",
        ),
        ("val", change(DEVKIT, lambda m: m.update({TRUTH: b"0\n1\n"})), "Found: 0 in .*devkit"),
        ("val", change(DEVKIT, lambda m: m.update({TRUTH: b""})), "Found: nothing in .*devkit"),
        ("val", change(DEVKIT, lambda m: m.update({META: b"x" * 200})), "a table of synsets"),
        (
            "val",
            change(DEVKIT, lambda m: m.update({META: m[META].replace(b"n90098842", b"../098842")})),
            "must name classes by WordNet ids",
        ),
        ("val", change(DEVKIT, lambda m: m.pop(META)), f"hold data/meta.mat. Found: no {META}, in"),
        (
            "val",
            change(DEVKIT, lambda m: m.update({META: bytes(17 << 20)})),
            "data/meta.mat must have at most 16 MiB",
        ),
        ("val", lambda f: (f / DEVKIT).write_bytes(b"\x1f\x8b\x08damaged"), "must hold data/meta"),
    ],
)
def test_what_is_refused(
    archives: Path, split: str | None, damage: Callable[[Path], object], found: str
) -> None:
    """An archive or a development kit that is not what it should be is refused with the reason."""
    damage(archives)
    with pytest.raises(UserError, match=found):
        list_ilsvrc(archives, split)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("ILSVRC2012_val_00000001,n90098842 1 2 3 4", "21 rows for 20 images"),
        ("ILSVRC2012_val_00000022,n90098842 1 2 3 4", "21 rows for 21 images"),
        ("ILSVRC2012_val_00000021,cat 1 2", "Found: 'ILSVRC2012_val_00000021,cat 1 2' in"),
        ("ILSVRC2012_val_00000021", "Found: 'ILSVRC2012_val_00000021' in"),
    ],
)
def test_a_damaged_table_is_refused(
    archives: Path, sources: dict[str, Path], row: str, found: str
) -> None:
    """Each row of Kaggle's table names another image and a WordNet id."""
    table = kaggle_table(sources, archives / "table.csv")
    table.write_text(table.read_text() + row + "\n")
    with pytest.raises(UserError, match=found):
        list_ilsvrc(archives, "val", table)


def test_what_is_missing_is_named(archives: Path, tmp_path: Path) -> None:
    """A devkit that does not exist and something that is no archive are named."""
    with pytest.raises(UserError, match=r"nothing at .*nowhere"):
        list_ilsvrc(archives, "val", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Found: neither, at .*devkit"):
        list_ilsvrc(archives / f"{KIT}.tar.gz")
    with pytest.raises(UserError, match="Found: neither, at"):
        list_ilsvrc(tmp_path / "nowhere")


def test_the_kit_is_read_without_scipy(
    archives: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but this program reads meta.mat."""
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    check_equal(list_ilsvrc(archives, "val"), sources["folder"] / "val")
