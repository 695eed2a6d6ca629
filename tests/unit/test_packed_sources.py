"""Tars that gzip has packed, and ImageNet's flat archives, are converted as what they hold."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from converted import run_and_die, same_bytes
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.tar_bytes import GzipBytes
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.convert.work_folder import work_path
from fastdeit.tools.data.sources.detect import guess_kind, open_source

pytestmark = pytest.mark.slow  # as a whole

WNIDS = ("n00000001", "n00000002", "n00000003")


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar with some members in their order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train folder of 24 pictures of 3 classes."""
    root = tmp_path_factory.mktemp("folder") / "train"
    rng = np.random.default_rng(0)
    for number in range(24):
        wnid = WNIDS[number % 3]
        (root / wnid).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / wnid / f"{wnid}_{number}.JPEG")
    return root


def images_of(folder: Path) -> dict[str, bytes]:
    """The pictures by their stems, mixed."""
    files = sorted(folder.rglob("*.JPEG"), key=lambda file: file.name[::-1])
    return {file.stem: file.read_bytes() for file in files}


def pack(layout: str, folder: Path, root: Path) -> Path:
    """Write the folder in another layout."""
    images = images_of(folder)
    root.mkdir()
    if layout == "shards":
        for part in range(2):
            members: dict[str, bytes] = {}
            for stem in list(images)[part::2]:
                label = str(WNIDS.index(stem[:9])).encode()
                members |= {f"{stem}.cls": label, f"{stem}.jpg": images[stem]}
            ending = (".tar.gz", ".tgz")[part]
            (root / f"train-{part}{ending}").write_bytes(gzip.compress(tar_of(members)))
    elif layout == "ilsvrc":
        inner = {
            f"{wnid}.tar": tar_of({f"{s}.JPEG": data for s, data in images.items() if wnid in s})
            for wnid in WNIDS
        }
        (root / "ILSVRC2012_img_train.tar").write_bytes(gzip.compress(tar_of(inner)))
    else:  # as ILSVRC/imagenet-1k on the Hub has it
        for part in range(11):
            stems = list(images)[part::11]
            members = {f"{stem}_{stem[:9]}.JPEG": images[stem] for stem in stems}
            data = tar_of({**members, "notes.txt": b"x"})
            name = f"train_images_{part}.tar"
            if layout == "hub":
                name, data = f"{name}.gz", gzip.compress(data)
            (root / name).write_bytes(data)
        (root / "test_images.tar").write_bytes(tar_of({"ILSVRC2012_test_00000001.JPEG": b"x"}))
    return root


@pytest.mark.parametrize("layout", ["shards", "ilsvrc", "hub", "hub, not packed"])
def test_they_become_what_the_folder_becomes(layout: str, folder: Path, tmp_path: Path) -> None:
    """Names, keys, labels and bytes, by one process or two, in parts or not; nothing is left."""
    source = pack(layout, folder, tmp_path / "source")
    assert guess_kind(source) == ("webdataset" if layout == "shards" else "ilsvrc")
    assert convert(folder, tmp_path / "expected.beton", workers=1) == 0
    assert convert(source, tmp_path / "one.beton", workers=1 + (layout == "shards")) == 0
    expected, found = (open_dataset(tmp_path / f"{name}.beton") for name in ("expected", "one"))
    for column in ("keys", "labels", "sizes", "checksums", "offsets"):
        assert np.array_equal(getattr(found, column), getattr(expected, column)), column
    assert list(found.names or ()) == list(expected.names or ())
    assert found.class_ids == expected.class_ids == WNIDS
    for part in ("1/2", "2/2"):
        assert convert(source, tmp_path / "parts" / "one.beton", part=part, workers=1) == 0
    assert merge(tmp_path / "parts" / "one.beton", remove_parts=True) == 0
    assert same_bytes(tmp_path / "parts" / "one.beton", tmp_path / "one.beton")
    kept = {path.name for path in tmp_path.iterdir() if path.suffix not in (".beton", ".json")}
    assert kept == {"source", "parts"}
    is_hub = layout.startswith("hub")
    assert found.made_by["not_images"]["count"] == 11 * is_hub
    if is_hub:
        assert found.made_by["not_images"]["first"][1].startswith("train_images_1.tar")
        next(source.glob("*_7.tar*")).unlink()
        with pytest.raises(UserError, match="Found: number 7 is missing beside"):
            open_source(source)


def test_val_of_the_hub(tmp_path: Path) -> None:
    """The names in val_images.tar.gz tell the classes; no development kit is needed."""
    members = {
        f"ILSVRC2012_val_{n:08d}_{wnid}.JPEG": b"%d" % n for n, wnid in enumerate(WNIDS[::-1], 1)
    }
    file = tmp_path / "val_images.tar.gz"
    file.write_bytes(gzip.compress(tar_of(members)))
    listing = open_source(file)
    names = [f"{wnid}/ILSVRC2012_val_{n:08d}.JPEG" for n, wnid in enumerate(WNIDS[::-1], 1)]
    assert list(listing.names) == names
    assert listing.labels.tolist() == [2, 1, 0]
    assert [listing.requests[n].read() for n in (2, 0, 1)] == [b"3", b"1", b"2"]
    with pytest.raises(UserError, match=r"Found: val_images\.tar\.gz \(val\), at"):
        open_source(file, split="train")


def test_a_stopped_conversion_goes_on(folder: Path, tmp_path: Path) -> None:
    """Killed in each of its two stages it ends in the same bytes."""
    source = pack("shards", folder, tmp_path / "source")
    assert convert(source, tmp_path / "one" / "out", workers=1) == 0
    went_on = 0
    for moment in range(10, 90, 20):
        out = tmp_path / str(moment) / "out"
        out.parent.mkdir()
        assert run_and_die(moment, source, out)
        went_on += any(work_path(out).rglob("journal"))
        assert convert(source, out, workers=1) == 0
        assert same_bytes(out, tmp_path / "one" / "out")
        assert {path.name for path in out.parent.iterdir()} == {"out", "out.json"}
    assert went_on


@pytest.mark.parametrize("layout", ["shards", "ilsvrc", "hub"])
def test_a_damaged_file_is_refused(layout: str, folder: Path, tmp_path: Path) -> None:
    """Cut anywhere, or with a changed bit in the data or the checksum: one error that names it."""
    source = pack(layout, folder, tmp_path / "source")
    file = max(source.iterdir(), key=lambda path: path.name.count("tar.gz"))
    whole = file.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 16]) + whole[half + 1 :]
    found = f"must be whole. Found: .* in .*{re.escape(file.name)}"
    for damaged in (b"", whole[:half], whole[:-4], flipped, whole[:-8] + bytes(8)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=found):
            convert(source, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_in_place_they_are_refused(folder: Path, tmp_path: Path) -> None:
    """Training needs places; the error names convert, whatever the file is called."""
    source = pack("shards", folder, tmp_path / "source")
    for path in (source, source / "train-0.tar.gz"):
        with pytest.raises(UserError, match="`fastdeit convert"):
            open_dataset(path)
    (source / "train-0.tar.gz").rename(source / "train-0.tar")
    with pytest.raises(UserError, match=r"Found: gzip data in .*train-0.tar. `fastdeit convert"):
        open_dataset(source)
    assert len(open_source(source / "train-0.tar")) == 12


def test_packed_and_plain_do_not_mix(folder: Path, tmp_path: Path) -> None:
    """A shard that lies there twice is not read twice; what lies beside class folders is none."""
    source = pack("shards", folder, tmp_path / "source")
    plain = gzip.decompress((source / "train-0.tar.gz").read_bytes())
    (source / "train-0.tar").write_bytes(plain)
    with pytest.raises(UserError, match=r"all packed or none.* Found: train-0.tar and train-"):
        open_source(source)
    shutil.copytree(folder, tmp_path / "set")
    shutil.copy(source / "train-1.tgz", tmp_path / "set")
    assert guess_kind(tmp_path / "set") == "imagefolder"


def test_bytes_by_their_place(tmp_path: Path) -> None:
    """Any place can be read, before and behind what is kept, and nothing behind the end."""
    data = np.arange(70 << 18, dtype=np.uint32).tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(data, 1))
    packed = GzipBytes(tmp_path / "x.gz")
    for at, size in ((0, 9), (5 << 20, 3 << 20), ((69 << 20) + 7, 5 << 20), (3, 66 << 20), (9, 0)):
        assert packed.pread(size, at) == data[at : at + size]
    assert packed.pread(1, 1 << 61) == b""
    packed.close()
