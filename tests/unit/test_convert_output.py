"""OUT, its manifest and its lock in the moments in which they change."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from converted import same_bytes
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DamagedError, open_dataset, sample_key
from fastdeit.tools.data.convert import conversion
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.work_folder import locked_work, work_path
from fastdeit.tools.data.verify import verify

pytestmark = pytest.mark.slow  # as a whole


def stop(*_: object) -> None:
    """What Ctrl-C does at that moment."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["out.beton", "out"])
@pytest.mark.parametrize("moment", ["sync_folder", "write_manifest"])
def test_stopped_while_out_is_replaced(
    name: str, moment: str, sample_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the exchange, no manifest speaks of the old OUT; the next run ends at once."""
    source, out = sample_source / "val", tmp_path / name
    assert convert(source, out, max_side=64) == 0
    with monkeypatch.context() as patch:
        patch.setattr(conversion, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, out, overwrite=True)
    manifest = tmp_path / f"{name}.json"
    assert open_dataset(out).widths.max() > 64
    assert not manifest.exists()
    assert work_path(out).exists()
    before = open_dataset(out).files[0].stat().st_mtime_ns
    assert convert(source, out, overwrite=True) == 0
    assert open_dataset(out).files[0].stat().st_mtime_ns == before
    assert json.loads(manifest.read_text()) == open_dataset(out).made_by
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.json"}


def test_a_lock_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who locks a file that its owner has just removed tries again with a new one."""
    out = tmp_path / "out.beton"
    real, calls = fcntl.flock, []

    def flock(handle: int, flags: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            shutil.rmtree(work_path(out))
        real(handle, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked_work(out) as work:
        assert (work / "lock").exists()
        with pytest.raises(UserError, match="only one conversion"), locked_work(out):
            pass
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_sync_folders(
    sample_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network file systems: OUT and its manifest are there all the same."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("out.beton", "out"):
        assert convert(sample_source / "val", tmp_path / name) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", "out.json", "out.beton", "out.beton.json"}


@pytest.mark.parametrize("kinds", [("beton", "webdataset"), ("webdataset", "beton")])
def test_one_kind_replaces_the_other(
    kinds: tuple[Any, Any], sample_source: Path, tmp_path: Path
) -> None:
    """--overwrite turns a file into a folder and back under one name."""
    for kind in kinds:
        assert convert(sample_source / "val", tmp_path / "out", kind, overwrite=True) == 0
        assert open_dataset(tmp_path / "out").container == kind
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.json"}


def test_somebody_elses_partial_folder_stays(sample_source: Path, tmp_path: Path) -> None:
    """A folder that only has the name of our work folder is refused, whatever it holds."""
    own = tmp_path / ".out.beton.partial" / "sub"
    own.mkdir(parents=True)
    (own / "x").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="which `fastdeit convert` did not make"):
            convert(sample_source / "val", tmp_path / "out.beton", overwrite=overwrite)
    assert (own / "x").read_text() == "precious"


@pytest.mark.parametrize("name", ["link.beton", "x" * 250])
def test_names_that_out_cannot_have(name: str, sample_source: Path, tmp_path: Path) -> None:
    """A link, and a name too long for what is made of it, are refused at the start."""
    (tmp_path / "link.beton").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"OUT must (not be a link|have a name of 1 to)"):
        convert(sample_source / "val", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["link.beton"]


def folders(root: Path) -> Path:
    """Two classes with three images each."""
    for number in range(6):
        folder = root / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (number, 9, 9)).save(folder / f"{number}.jpg")
    return root


def test_what_cannot_be_read_is_not_dropped(tmp_path: Path) -> None:
    """A link to nothing is a bad image, a lost class or a pipe an error; none is passed over."""
    source = folders(tmp_path / "source")
    (source / "class1" / "lost.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"every image must decode\. Found: class1/lost.jpg"):
        convert(source, tmp_path / "out.beton")
    assert convert(source, tmp_path / "out.beton", bad="skip") == 0
    (left_out,) = open_dataset(tmp_path / "out.beton").made_by["left_out"]
    assert left_out == {"name": "class1/lost.jpg", "reason": "No such file or directory"}
    os.mkfifo(source / "class0" / "pipe.png")
    with pytest.raises(UserError, match=r"every image must be a file\. Found: .*pipe\.png"):
        convert(source, tmp_path / "new.beton", bad="skip")
    (source / "class2").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"every class folder must be there.*class2, a link to"):
        convert(source, tmp_path / "new.beton", bad="skip")


def test_a_mended_image_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a bad image was mended the same command goes on; not if an earlier one changed."""
    source = folders(tmp_path / "source")
    names = [f"class{number % 2}/{number}.jpg" for number in range(6)]
    last = max(names, key=sample_key)
    good = (source / last).read_bytes()
    (source / last).write_bytes(b"broken")
    out = tmp_path / "out.beton"
    with pytest.raises(UserError, match=f"Found: {last}"):
        convert(source, out)
    (source / last).write_bytes(good + b"mended")
    other = source / min(names, key=sample_key)
    before, stat = other.read_bytes(), other.stat()
    other.write_bytes(before + b"changed")
    with pytest.raises(UserError, match="1 of 5 images that were done have changed since, such as"):
        convert(source, out)
    other.write_bytes(before)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    capsys.readouterr()
    assert convert(source, out) == 0
    assert "going on after 5 of 6 images" in capsys.readouterr().err
    assert convert(source, tmp_path / "one" / "out.beton") == 0
    assert same_bytes(out, tmp_path / "one" / "out.beton")


def test_shards_without_their_index(sample_source: Path, tmp_path: Path) -> None:
    """Our shards without index.safetensors are not taken for others', whose keys would differ."""
    assert convert(sample_source / "val", tmp_path / "out") == 0
    (tmp_path / "out" / "index.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"must hold index\.safetensors beside the shards"):
        open_dataset(tmp_path / "out")
    assert verify(tmp_path / "out") == 1


def test_files_that_are_no_dataset(tmp_path: Path) -> None:
    """An image or a text is no damaged .beton and no tar; it is not a dataset, and not a source."""
    Image.new("RGB", (20, 10)).save(tmp_path / "photo.jpg")
    for path in (tmp_path / "photo.jpg", Path(__file__)):
        with pytest.raises(UserError, match=r"dataset must be a \.beton, a folder of shards or"):
            verify(path)
        with pytest.raises(UserError, match=r"source must be a folder, or a \.tar, \.parquet or"):
            convert(path, tmp_path / "out.beton")


def test_parts_of_another_number_are_refused(sample_source: Path, tmp_path: Path) -> None:
    """Who makes part 1 of 2 where parts of 3 lie is told at once."""
    convert(sample_source / "val", tmp_path / "out", part="1/3")
    with pytest.raises(UserError, match=r"all parts must be of one number\. Found: .*1-of-3"):
        convert(sample_source / "val", tmp_path / "out", part="1/2")


def test_the_last_lines_say_what_exif_would_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many images lie on their side, and the option that turns them; none if it is given."""
    for number in range(6):
        file = tmp_path / "set" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number < 3 else 1
        Image.new("RGB", (30, 20)).save(file, exif=exif)
    assert convert(tmp_path / "set", tmp_path / "out", workers=1) == 0
    last = "3 of 6 images are turned by EXIF; --exif apply turns them\n"
    assert capsys.readouterr().err.endswith(last)
    assert convert(tmp_path / "set", tmp_path / "turned", exif="apply", workers=1) == 0
    assert last not in capsys.readouterr().err


def test_two_runs_differ_in_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages, OUT.json and OUT are the same, whatever is wrong with the images."""
    for folder, name in (("a", "good.jpg"), ("b", "other.jpg")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "set" / folder / name)
    (tmp_path / "set" / "a" / "garbage.jpg").write_bytes(b"garbage" * 9)
    (tmp_path / "set" / "a" / "empty.jpg").touch()
    (tmp_path / "set" / "a" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    said = []
    for number in (1, 2):
        out = tmp_path / str(number) / "out.beton"
        assert convert(tmp_path / "set", out, bad="skip", workers=number) == 0
        lines = capsys.readouterr().err.replace(str(out.parent), "")
        said.append(re.sub(r"in [0-9.]+ s", "", lines))
    assert said[0] == said[1]
    for name in ("out.beton", "out.beton.json"):
        one, two = ((tmp_path / number / name).read_bytes() for number in "12")
        assert one == two
        assert b"0x" not in one
