"""What lies among images and is none is left out of a dataset, and said."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from fastdeit.pipelines.datasets.files import find_images
from fastdeit.pipelines.datasets.foreign import scan_shards
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.sources.detect import open_source


def picture(format: str = "JPEG", **options: object) -> bytes:
    """A small image."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, format, **options)
    return file.getvalue()


def folder_of(root: Path, *names: str) -> Path:
    """A folder with the same picture under some names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture())
    return root


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    """A tar with some members in their order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_hidden_folders_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels do not shift, nothing hidden is an image, and a line says so."""
    hidden = (".ipynb_checkpoints/x.jpg", "a/.cache/deep/x.jpg", "a/._1.jpg", "__MACOSX/a/._1.jpg")
    source = folder_of(tmp_path / "set", "a/1.jpg", "b/in/2.jpg", "b/.3.jpg", *hidden)
    names = ".ipynb_checkpoints, __MACOSX, a/._1.jpg, ..."
    said = f"{source}: left out as hidden: {names} (4 in all)\n"
    listing, index = open_source(source), open_dataset(source)
    assert capsys.readouterr().err == 2 * said
    for names, labels, classes in (
        (listing.names, listing.labels, listing.class_ids),
        (index.names, index.labels, list(index.class_ids)),
    ):
        assert list(names or ()) == ["a/1.jpg", "b/.3.jpg", "b/in/2.jpg"]
        assert labels.tolist() == [0, 1, 1]
        assert classes == ["a", "b"]
    found = [file.relative_to(source).as_posix() for file in find_images([source])]
    assert found == list(listing.names)
    assert capsys.readouterr().err == said


def test_hidden_members_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What macOS packs beside each file disturbs no sample; a path from ./ is not hidden."""
    members = {"._a.jpg": b"x", "./a.jpg": b"1", "./._a.cls": b"x", "./a.cls": b"0"}
    more = {"__MACOSX/b.jpg": b"x", ".ipynb_checkpoints/b.jpg": b"x"}
    file = tar_of(tmp_path / "s.tar", {**members, **more})
    assert list(scan_shards([file]).names) == ["./a.jpg"]
    said = f"{tmp_path}: left out as hidden: ./._a.cls, ._a.jpg, .ipynb_checkpoints/b.jpg, ... (4 "
    assert said in capsys.readouterr().err


def test_hidden_members_of_ilsvrcs_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive that was packed again on macOS is still ImageNet's."""
    inner = tar_of(tmp_path / "inner", {"._n01440764_1.JPEG": b"x", "n01440764_1.JPEG": b"1"})
    members = {"._n01440764.tar": b"x", "n01440764.tar": inner.read_bytes()}
    listing = open_source(tar_of(tmp_path / "train.tar", members))
    assert list(listing.names) == ["n01440764/n01440764_1.JPEG"]
    said = "train.tar: left out as hidden: ._n01440764.tar, ._n01440764_1.JPEG (2 in all)"
    assert said in capsys.readouterr().err


def test_an_image_is_one_whatever_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Endings that torchvision does not know and none at all count; what is no image is named."""
    source = folder_of(tmp_path / "set", "a/1.jpg", "a/2.jfif", "a/3", "a/4.bin", "b/5.JPE")
    named = [*source.glob("*/*")]
    for number, format in enumerate(("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")):
        named.append(source / "b" / f"picture{number}")
        named[-1].write_bytes(picture(format))
    named.append(source / "b" / "picture.jp2x")
    named[-1].write_bytes(picture("JPEG2000"))
    named.append(source / "b" / "empty.gif")  # an image that is damaged, and not left out
    named[-1].write_bytes(b"")
    strays = {"a/notes.txt": b"P1 is a class", "a/sub/none": b"", "b/film.mp4": b"....ftypisom"}
    for name, data in strays.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(data)
    os.mkfifo(source / "a" / "pipe")  # is not opened
    (source / "LOC_synset_mapping.txt").write_text("a word\nb word\n")
    images = sorted(file.relative_to(source).as_posix() for file in named)
    listing = open_source(source)
    assert list(listing.names) == images
    assert listing.strays.not_images.count == 4
    assert listing.strays.not_images.first() == [
        "a/notes.txt",
        "a/pipe",
        "a/sub/none",
        "b/film.mp4",
    ]
    (source / "b" / "empty.gif").unlink()
    assert list(open_dataset(source).names or ()) == [x for x in images if x != "b/empty.gif"]
    assert [file.relative_to(source).as_posix() for file in find_images([source])] == [
        name for name in images if name != "b/empty.gif"
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_what_is_no_image_is_in_the_manifest(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line and OUT.json say what was no image, through parts too."""
    source = folder_of(tmp_path / "set", "a/1.jpg", "b/2")
    for number in range(22):
        (source / "a" / f"{number:02d}.txt").write_text("no image")
    shutil.copy(next((source / "a").glob("*.jpg")), source / "beside.jpg")
    (source / "README.md").write_text("of the whole")
    said = "23 files are no images of a class: a/00.txt, a/01.txt, a/02.txt, ..."
    assert convert(source, tmp_path / name, bad="list", workers=1) == 0
    assert f"0 of 2 images are bad; {said}; nothing was written" in capsys.readouterr().err
    assert convert(source, tmp_path / name, workers=1) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"0 irregular, 0 left out, listed in {tmp_path / name}.json; {said}")
    manifest = json.loads((tmp_path / f"{name}.json").read_text())
    first = [f"a/{number:02d}.txt" for number in range(20)]
    assert manifest["not_images"] == {"count": 23, "first": first}
    assert open_dataset(tmp_path / name).made_by["not_images"] == manifest["not_images"]
    merged = tmp_path / "merged" / name
    for part in ("1/2", "2/2"):
        assert convert(source, merged, part=part, workers=1) == 0
    assert merge(merged) == 0
    assert json.loads(merged.with_name(f"{name}.json").read_text()) == manifest


def test_members_of_shards_that_are_no_images(tmp_path: Path) -> None:
    """What is neither image nor label nor metadata is counted, in samples and beside them."""
    members = {"README": b"x", "__meta__": b"x", "a.jpg": b"1", "a.cls": b"0", "a.json": b"{}"}
    more = {"a.seg.png": b"1", "a.txt": b"a cat", "b.gif": b"1", "b.cls": b"1"}
    file = tar_of(tmp_path / "s.tar", {**members, **more})
    strays = open_source(file).strays.not_images
    assert (strays.count, strays.first()) == (2, ["s.tar/README", "s.tar/a.seg.png"])
