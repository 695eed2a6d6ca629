"""What lies among images and is none is left out of a dataset, and said."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from fastdeit.pipelines.datasets.files import find_images
from fastdeit.pipelines.datasets.foreign import scan_shards
from fastdeit.pipelines.datasets.index import open_dataset
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
    """Labels do not shift, nothing hidden is an image, and a line says so, in place or converted."""
    hidden = (".ipynb_checkpoints/x.jpg", "a/.cache/deep/x.jpg", "a/._1.jpg", "__MACOSX/a/._1.jpg")
    source = folder_of(tmp_path / "set", "a/1.jpg", "b/in/2.jpg", "b/.3.jpg", *hidden)
    said = f"{source}: left out as hidden: 4 in all: .ipynb_checkpoints, __MACOSX, a/._1.jpg, ...\n"
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
    assert "left out as hidden: 4 in all" in capsys.readouterr().err


def test_hidden_members_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What macOS packs beside each file disturbs no sample; a path from ./ is not hidden."""
    members = {"._a.jpg": b"x", "./a.jpg": b"1", "./._a.cls": b"x", "./a.cls": b"0"}
    more = {"__MACOSX/b.jpg": b"x", ".ipynb_checkpoints/b.jpg": b"x"}
    file = tar_of(tmp_path / "s.tar", {**members, **more})
    assert list(scan_shards([file]).names) == ["./a.jpg"]
    assert (
        f"{tmp_path}: left out as hidden: 4 in all: ./._a.cls, ._a.jpg" in capsys.readouterr().err
    )


def test_hidden_members_of_ilsvrcs_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive that was packed again on macOS is still ImageNet's."""
    inner = tar_of(tmp_path / "inner", {"._n01440764_1.JPEG": b"x", "n01440764_1.JPEG": b"1"})
    members = {"._n01440764.tar": b"x", "n01440764.tar": inner.read_bytes()}
    listing = open_source(tar_of(tmp_path / "train.tar", members))
    assert list(listing.names) == ["n01440764/n01440764_1.JPEG"]
    assert "train.tar: left out as hidden: 2 in all: ._n01440764.tar" in capsys.readouterr().err
