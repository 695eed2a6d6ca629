"""Shards that other programs made are read as webdataset reads them, with stable names and keys."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.foreign import find_shards, index_foreign_shards, scan_shards
from fastdeit.pipelines.datasets.index import sample_key
from fastdeit.pipelines.datasets.shard_samples import samples_of
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.tools.data.sources.shards import list_shards

Members = Iterable[tuple[str, bytes]]


def picture(width: int, height: int, format: str = "JPEG", **options: Any) -> bytes:
    """A small image."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


JPEG = picture(9, 7)


def shard(file: Path, members: Members) -> Path:
    """Write a tar."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def sample(key: str, label: int | str, image: bytes = JPEG) -> Members:
    """A sample as most programs write it."""
    return [(f"{key}.cls", str(label).encode()), (f"{key}.jpg", image)]


def facts(**fields: object) -> bytes:
    """The content of a .json."""
    return json.dumps(fields).encode()


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    """Keys, images and labels are those that webdataset's reader gives, in its order."""
    wds = pytest.importorskip("webdataset")
    # fmt: off
    members = [
        ("__meta__", b"x"), ("README", b"x"), (".hidden", b"x"),
        ("a.jpg", b"1"), ("a.cls", b"0"),
        ("b.json", b"{}"), ("b.CLS", b"1"), ("b.JPEG", b"22"),
        ("dir.with.dots/c.cls", b"2"), ("dir.with.dots/c.seg.png", b"x"),
        ("dir.with.dots/c.png", b"333"), ("dir.with.dots/no-extension", b"x"),
        ("./d.jpg", b"4444"), ("./d.cls", b"3\n"),
        ("other/a.jpg", b"55555"), ("other/a.cls", b"4"), ("other/a.txt", b"a caption"),
    ]
    # fmt: on
    file = shard(tmp_path / "a.tar", members)
    expected = []
    for one in wds.WebDataset([str(file)], shardshuffle=False):
        image = one.get("jpg") or one.get("jpeg") or one.get("png")
        expected.append((one["__key__"], image, int(one["cls"])))
    data = file.read_bytes()
    found = [
        (one.key, data[one.image.offset : one.image.offset + one.image.size], one.label)
        for one in samples_of(file, Strays())
    ]
    assert found == expected
    assert len(found) == 5


def test_shards_of_webdatasets_writer(tmp_path: Path) -> None:
    """Its writer makes a pax header for every member; nothing of it disturbs."""
    wds = pytest.importorskip("webdataset")
    images = [picture(8 + number, 6) for number in range(5)]
    with wds.ShardWriter(str(tmp_path / "a-%02d.tar"), maxcount=2, verbose=0) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"{number:04d}", "jpg": image, "cls": number})
    index = index_foreign_shards(tmp_path)
    assert [index.read(number) for number in range(5)] == images
    assert index.labels.tolist() == [0, 1, 2, 3, 4]
    assert index.widths.tolist() == [8, 9, 10, 11, 12]
    assert set(index.heights.tolist()) == {6}
    assert [file.name for file in index.files] == ["a-00.tar", "a-01.tar", "a-02.tar"]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ([("a.cls", b" 7\n")], 7),
        ([("a.cls.txt", b"7")], 7),
        ([("a.label", b"7")], 7),
        ([("a.txt", b"7")], 7),
        ([("a.json", facts(label=7))], 7),
        ([("a.json", facts(class_id=7))], 7),
        ([("a.json", facts(target=7))], 7),
        ([("a.json", facts(label="cat", cls=7))], 7),
        ([("a.json", facts(label=8)), ("a.cls", b"7")], 7),
        ([("a.json", facts(label=7)), ("a.txt", b"a cat")], 7),
        ([("a.json", b"[7]"), ("a.txt", b"7")], 7),
        ([("a.cls", b"7"), ("a.json", b"{" * ((1 << 20) + 1))], 7),
    ],
)
def test_where_a_label_may_be(tmp_path: Path, members: Members, label: int) -> None:
    """A text that is a number, or a field of a .json; .cls counts first and .txt last."""
    (found,) = samples_of(shard(tmp_path / "a.tar", [*members, ("a.jpg", JPEG)]), Strays())
    assert found.label == label


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ([("a.cls", b"0")], "no image (.cls) in sample a of"),
        ([("a.jpg", b""), ("a.png", b""), ("a.cls", b"0")], "2 images (.jpg, .png, .cls) in"),
        ([("a.jpg", b""), ("a.JPG", b""), ("a.cls", b"0")], "two members .jpg in sample a of"),
        ([("a.jpg", b"")], "no class number (.jpg) in sample a of"),
        (
            [("a.jpg", b""), ("b.cls", b"0"), ("a.cls", b"0")],
            "beside each other in a shard, for it is read as a stream. Found: a.jpg and, "
            "elsewhere, a.cls in {file}. Unpack it, and pack it anew with tar --sort=name.",
        ),
        (
            [*sample("a", 0), *sample("b", 0), ("a.json", b"{}")],
            "Found: a.json and, elsewhere, a.cls in {file}",
        ),
        (
            [("./ILSVRC2012_val_00000001.JPEG", b"")],
            "ILSVRC2012_val_00000001 of {file}. It is an archive of ImageNet's own, which "
            "`fastdeit convert` reads.",
        ),
        ([("n01440764.tar", b"")], "It is an archive of ImageNet's own, which"),
        ([("a.jpg", b""), ("a.cls", b"cat")], "no class number in .cls, but b'cat' in sample a"),
        ([("a.jpg", b""), ("a.cls", b"")], "no class number in .cls, but b'' in sample a"),
        ([("a.jpg", b""), ("a.cls", b"1" * 33)], "no class number in .cls, but b'1111"),
        ([("a.jpg", b""), ("a.cls", b"-1")], "class -1, not one from 0 to 1048575 in sample a"),
        ([("a.jpg", b""), ("a.cls", b"1048576")], "class 1048576, not one from 0 to"),
        ([("a.jpg", b""), ("a.txt", b"a cat")], "no class number in .txt, but b'a cat'"),
        ([("a.jpg", b""), ("a.json", b"{")], "a damaged .json (Expecting"),
        ([("a.jpg", b""), ("a.json", b"[" * 100000)], "a damaged .json ("),
        ([("a.jpg", b""), ("a.json", facts(label=True))], "no class number (.jpg, .json)"),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, members: Members, found: str) -> None:
    """A sample without image or class, or with two, is named with its shard."""
    file = shard(tmp_path / "a.tar", [*members, *sample("z", 0)])
    with pytest.raises(UserError, match=re.escape(found.replace("{file}", str(file)))) as error:
        scan_shards([file])
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("key", "filename", "name"),
    [
        ("n01440764_10026", None, "n01440764/n01440764_10026.JPEG"),
        ("./train/n01440764_10026", None, "n01440764/n01440764_10026.JPEG"),
        ("n01440764_10026_n01440764", None, "n01440764/n01440764_10026.JPEG"),
        ("n01440764_10026_n01440765", None, "n01440764_10026_n01440765.jpg"),
        ("n01440764/ILSVRC2012_val_00000293", None, "n01440764/ILSVRC2012_val_00000293.JPEG"),
        ("ILSVRC2012_val_00000293_n01440764", None, "n01440764/ILSVRC2012_val_00000293.JPEG"),
        ("ILSVRC2012_val_00000293", None, "ILSVRC2012_val_00000293.jpg"),
        # As in Hugging Face's timm/imagenet-1k-wds.
        (
            "ILSVRC2012_val_00009670",
            "n01630670/ILSVRC2012_val_00009670.JPEG",
            "n01630670/ILSVRC2012_val_00009670.JPEG",
        ),
        ("00000001", "n01440764_10026.JPEG", "n01440764/n01440764_10026.JPEG"),
        ("00000001", "cat.jpg", "00000001.jpg"),
        ("00000001", 5, "00000001.jpg"),
        ("a/b", None, "a/b.jpg"),
    ],
)
def test_names(tmp_path: Path, key: str, filename: object, name: str) -> None:
    """An image of ImageNet has the name, and so the key, that it has in ImageNet's folders."""
    members = [*sample(key, 0)]
    if filename is not None:
        members.append((f"{key}.json", facts(filename=filename, label=0)))
    shards = scan_shards([shard(tmp_path / "a.tar", members)])
    assert list(shards.names) == [name]
    assert shards.keys.tolist() == [sample_key(name)]


def test_keys_that_return_in_other_shards(tmp_path: Path) -> None:
    """Names tell the shard as soon as one key is in two shards; ImageNet's never do."""
    one, two = tmp_path / "a-1.tar", tmp_path / "a-2.tar"
    shard(one, [*sample("0", 0), *sample("1", 0), *sample("n01440764_1", 0)])
    shard(two, sample("1", 0))
    assert list(scan_shards([one]).names) == ["0.jpg", "1.jpg", "n01440764/n01440764_1.JPEG"]
    shards = scan_shards([one, two])
    expected = ["a-1.tar/0.jpg", "a-1.tar/1.jpg", "n01440764/n01440764_1.JPEG", "a-2.tar/1.jpg"]
    assert list(shards.names) == expected
    assert shards.keys.tolist() == [sample_key(name) for name in expected]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (["1", "2", "1"], [], "a-1.tar/1.jpg twice, the second time in .*a-1.tar"),
        (["n01440764_1"], ["n01440764_1"], "n01440764_1.JPEG twice, the second time in .*a-2.tar"),
    ],
)
def test_an_image_twice_is_refused(
    tmp_path: Path, first: list[str], second: list[str], found: str
) -> None:
    """Two images of one key are not told apart by anything, so they are an error."""
    keys = {"a-1.tar": first, "a-2.tar": [*second, "3"]}
    files = [
        shard(tmp_path / name, [member for key in some for member in sample(key, 0)])
        for name, some in keys.items()
    ]
    with pytest.raises(UserError, match=found):
        scan_shards(files)


@pytest.mark.parametrize(
    ("samples", "class_ids"),
    [
        ([("n00000001_1", 0), ("n00000005_1", 3)], ["n00000001", "1", "2", "n00000005"]),
        ([("n00000001_1", 0), ("n00000002_1", 0), ("n00000001_2", 0)], ["0"]),
        ([("n00000001_1", 0), ("x", 0), ("n00000002_1", 1)], ["0", "n00000002"]),
        ([("n00000001_1", 0), ("n00000001_2", 1)], ["0", "1"]),
        ([("a", 1)], ["0", "1"]),
    ],
)
def test_class_ids(tmp_path: Path, samples: list[tuple[str, int]], class_ids: list[str]) -> None:
    """A class is a WordNet id if all its images agree and no other class has it, else a number."""
    members = [member for key, label in samples for member in sample(key, label)]
    (tmp_path / "LOC_synset_mapping.txt").write_text("n00000001 tench, Tinca tinca\n")
    index = index_foreign_shards(shard(tmp_path / "a.tar", members))
    assert list(index.class_ids) == class_ids
    assert index.class_names == tuple(
        "tench, Tinca tinca" if class_id == "n00000001" else class_id for class_id in class_ids
    )


def test_image_formats_and_sizes(tmp_path: Path) -> None:
    """Widths and heights are read whatever the format, and however far behind the head they are."""
    comment = b"\xff\xfe\xff\xfe" + b"c" * 65532  # a segment of the greatest length
    images = {
        "a.jpg": picture(30, 20),
        "b.jpeg": (lambda jpeg: jpeg[:2] + comment * 2 + jpeg[2:])(picture(31, 21)),
        "c.png": picture(32, 22, "PNG"),
        "d.webp": picture(33, 23, "WEBP"),
        "e.jpg": picture(34, 24, "PNG"),  # under a JPEG's name, as one image of ImageNet
        "f.jpg": (lambda jpeg: jpeg[:2] + comment[:2] + b"\x20\0" + bytes(8190) + jpeg[2:])(
            picture(35, 25)
        ),
    }
    members = [
        member
        for name, data in images.items()
        for member in ((name, data), (f"{name[0]}.cls", b"0"))
    ]
    shard(tmp_path / "a-9.tar", members[:6])
    shard(tmp_path / "a-10.tar", members[6:])
    index = index_foreign_shards(tmp_path)
    assert index.widths.tolist() == [30, 31, 32, 33, 34, 35]
    assert index.heights.tolist() == [20, 21, 22, 23, 24, 25]
    assert [file.name for file in index.files] == ["a-9.tar", "a-10.tar"]
    assert [index.read(number) for number in range(6)] == list(images.values())
    assert index.names is not None
    assert list(index.names) == list(images)
    assert index.describe(1).endswith(f"b.jpeg, sample 1, key {sample_key('b.jpeg'):016x}")


def test_only_heads_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a large JPEG reads a page of it, or 64 kB if its frame is far behind its start."""
    comment = b"\xff\xfe\x20\0" + bytes(8190)
    rest = bytes(200_000)
    members = [
        *sample("a", 0, JPEG + rest),
        *sample("b", 0, JPEG[:2] + comment + JPEG[2:] + rest),
    ]
    shard(tmp_path / "a.tar", members)
    sizes: list[int] = []
    read = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    index_foreign_shards(tmp_path)
    assert sizes[-3:] == [4096, 4096, 65536]


@pytest.mark.parametrize("data", [b"", b"no image", JPEG[:20], b"\xff\xd8\xff" + bytes(70000)])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    """An image that cannot be measured is named."""
    file = shard(tmp_path / "a.tar", [*sample("a", 0), *sample("b", 0, data)])
    with pytest.raises(UserError, match=re.escape(f"b.jpg, {len(data)} bytes, in {file}")):
        index_foreign_shards(tmp_path)


def test_shards_of_several_splits(tmp_path: Path) -> None:
    """A folder that mixes splits is read by split, and never as one."""
    for number, name in enumerate(("x-train-0", "x-train-1", "x-validation-0", "other", "test_0")):
        shard(tmp_path / f"{name}.tar", sample(f"n0000000{number}_1", 0))
    shard(tmp_path / ".x-train-2.tar", [])
    for split in (None, "valid?"):
        with pytest.raises(UserError) as error:
            list_shards(tmp_path, split)
        for part in ("2 of train", "1 of val", "1 of test", "1 of no split"):
            assert part in str(error.value)
    with pytest.raises(UserError, match="shards must be those of one split"):
        index_foreign_shards(tmp_path)
    names = {split: list(list_shards(tmp_path, split).names) for split in ("train", "val", "test")}
    assert {split: [int(name[8]) for name in found] for split, found in names.items()} == {
        "train": [0, 1],
        "val": [2],
        "test": [4],
    }
    assert names["val"] == list(list_shards(tmp_path, "validation").names)
    assert len(list_shards(tmp_path / "other.tar")) == 1
    with pytest.raises(UserError, match=r"must tell the split train.* Found: 1 of no split"):
        list_shards(tmp_path / "other.tar", "train")


def test_a_listing_reads_the_images(tmp_path: Path) -> None:
    """Requests give the bytes of each image, and the fingerprint tells a change."""
    images = [picture(8 + number, 6) for number in range(3)]
    file = shard(
        tmp_path / "a.tar",
        [one for n, image in enumerate(images) for one in sample(f"{n}", n, image)],
    )
    listing = list_shards(tmp_path)
    assert [listing.requests[n].read() for n in range(len(listing.requests))] == images
    assert listing.sizes.tolist() == [len(image) for image in images]
    assert listing.kind == "webdataset"
    assert listing.fingerprint == list_shards(file).fingerprint
    shard(file, [one for n, image in enumerate(images) for one in sample(f"{n}", 0, image)])
    assert listing.fingerprint != list_shards(file).fingerprint


def test_dangerous_and_missing_shards_are_refused(tmp_path: Path) -> None:
    """What a tar must not hold is refused here too; so are no shards and no samples."""
    with pytest.raises(UserError, match=r"shards must be \*\.tar. Found: none in"):
        find_shards(tmp_path)
    with pytest.raises(UserError, match=r"a path with \.\., \.\./a\.jpg"):
        index_foreign_shards(shard(tmp_path / "a.tar", [("../a.jpg", JPEG)]))
    with pytest.raises(UserError, match=r"shards must hold samples\. Found: none in"):
        index_foreign_shards(shard(tmp_path / "b.tar", [("README", b"")]))
