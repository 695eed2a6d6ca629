"""A conversion that is stopped anywhere goes on, and becomes the same in every byte."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import contents, run_and_die, same_bytes
from nightly import often
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert import conversion
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.journal import Journal
from fastdeit.tools.data.convert.prepare_image import PreparedImage
from fastdeit.tools.data.convert.work_folder import locked_work, work_path
from fastdeit.tools.data.verify import verify

pytestmark = pytest.mark.slow  # as a whole

NAMES = ["out.beton", "out"]


@pytest.mark.parametrize(("name", "options"), [("out.beton", {}), ("out", {"shard_mib": 1})])
def test_killed_anywhere_and_resumed(
    name: str, options: dict[str, Any], sample_source: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments of writing; each time the next run ends with the same bytes."""
    source = sample_source / "val"
    assert not run_and_die(1 << 30, source, tmp_path / "count" / name, **options)
    whole = tmp_path / "whole" / name
    assert convert(source, whole, **options) == 0
    assert len(open_dataset(whole).files) == (1 if name == "out.beton" else 4)
    (counted,) = (tmp_path / "count").glob("calls-*")
    num_calls = int(counted.name.removeprefix("calls-"))
    assert num_calls > 60
    moments = random.Random(name).sample(range(num_calls), often(10, 50))
    went_on = 0
    for moment in moments:
        out = tmp_path / str(moment) / name
        out.parent.mkdir()
        assert run_and_die(moment, source, out, **options)
        went_on += any(work_path(out).glob("journal"))
        assert convert(source, out, workers=1, **options) == 0
        assert same_bytes(out, whole), moment
        assert {path.name for path in out.parent.iterdir()} == {name, f"{name}.json"}, moment
    assert went_on > len(moments) // 2


@pytest.mark.parametrize("name", NAMES)
def test_killed_again_and_again(
    name: str, whole: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """A conversion that never gets further than a few writes at a time arrives all the same."""
    deaths = 0
    while run_and_die(40, sample_source / "val", tmp_path / name):
        deaths += 1
        assert deaths < 60
    assert deaths > 3
    assert same_bytes(tmp_path / name, whole[name])


def test_another_conversion_is_not_gone_on_with(sample_source: Path, tmp_path: Path) -> None:
    """An unfinished conversion with other options is refused, and thrown away by --overwrite."""
    source, out = sample_source / "val", tmp_path / "out.beton"
    assert run_and_die(80, source, out)
    before = (work_path(out) / "journal").read_bytes()
    with pytest.raises(UserError, match=r"can only go on with the same .* max_side None, not 100"):
        convert(source, out, max_side=100)
    assert (work_path(out) / "journal").read_bytes() == before
    assert convert(source, out, max_side=100, overwrite=True) == 0
    assert open_dataset(out).widths.max() <= 100


def test_a_mistaken_source_loses_nothing(sample_source: Path, tmp_path: Path) -> None:
    """Another source, a smaller one, is refused, and the unfinished conversion is as it was."""
    out = tmp_path / "out.beton"
    assert run_and_die(300, sample_source / "train", out)
    before = (work_path(out) / "journal").read_bytes()
    with pytest.raises(UserError, match="can only go on with the same source and options"):
        convert(sample_source / "val", out)
    assert (work_path(out) / "journal").read_bytes() == before
    assert convert(sample_source / "train", out) == 0


def test_the_journal_follows_the_data(
    sample_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are on the disk before the journal speaks of them, and OUT before it has its name."""
    calls: list[tuple[str, str]] = []

    def recorded(name: str) -> None:
        real = getattr(os, name)

        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            path = f"/proc/self/fd/{first}"
            file = Path(path).resolve().name if isinstance(first, int) else Path(first).name
            calls.append((name, file.split("-")[0]))
            return real(first, *args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("pwritev", "fsync", "replace"):
        recorded(name)
    monkeypatch.setattr(conversion, "COMMIT_S", 0.0)
    assert convert(sample_source / "val", tmp_path / "x.beton", workers=1, reencode="all") == 0
    is_dirty = False
    num_blocks = 0
    for what, file in calls:
        if file == "pages":
            is_dirty = what == "pwritev" or (is_dirty and what != "fsync")
        if file == "journal" and what == "pwritev":
            assert not is_dirty
            num_blocks += 1
        if what == "replace" and file == "pages":
            assert not is_dirty
    assert num_blocks > 30
    assert ("replace", "pages") in calls


def test_an_unfinished_file_that_was_cut(
    whole: dict[str, Path], sample_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the unfinished file holds less than the journal says, the conversion begins again."""
    source, out = sample_source / "val", tmp_path / "out.beton"
    assert run_and_die(80, source, out)
    (pages,) = work_path(out).glob("pages-*")
    os.truncate(pages, 9_000_000)
    assert convert(source, out) == 0
    assert "was cut since; beginning again" in capsys.readouterr().err
    assert same_bytes(out, whole["out.beton"])


def test_an_overwritten_out_stays_until_the_new_one_is_whole(
    whole: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """While a conversion replaces OUT the old one is there; after every kill OUT is one of them."""
    source, out = sample_source / "val", tmp_path / "out"
    assert convert(source, out, max_side=64) == 0
    old = contents(out)
    moment = 0
    while run_and_die(moment, source, out, overwrite=True):
        moment += 9
        if out.exists():
            found = shards_of(contents(out))
            assert found in (shards_of(old), shards_of(contents(whole["out"])))
    assert moment > 50
    assert same_bytes(out, whole["out"])


def test_a_full_disk(sample_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up is one error; the conversion goes on once there is room."""
    source, out = sample_source / "val", tmp_path / "out.beton"
    room = 1_500_000
    real = os.pwritev

    def pwritev(handle: int, pieces: list[bytes], offset: int) -> int:
        nonlocal room
        size = sum(map(len, pieces))
        if size > room:  # a part of it is taken, as a real disk does
            if room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken, room = room, 0
            return real(handle, [b"".join(pieces)[:taken]], offset)
        room -= size
        return real(handle, pieces, offset)

    def pwrite(handle: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(conversion, "COMMIT_S", 0.0)
    with pytest.raises(
        UserError, match=r"the disk of OUT is full\. Found: .* free in .*\. Make room"
    ):
        convert(source, out, workers=1, reencode="all")
    monkeypatch.undo()
    assert convert(source, out, workers=1, reencode="all") == 0
    assert convert(source, tmp_path / "one" / "out.beton", reencode="all") == 0
    assert same_bytes(out, tmp_path / "one" / "out.beton")


@pytest.mark.parametrize("name", NAMES)
def test_a_full_tmpfs(
    name: str, whole: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """On a real file system that fills up: one error, and it goes on after room is made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted by this user")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(3_000_000))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conversion, "check_space", lambda *_: None)
            with pytest.raises(UserError, match=r"the disk of OUT is full\. Found: .* Make room"):
                convert(sample_source / "val", disk / name)
        assert not (disk / name).exists()
        ballast.unlink()
        assert convert(sample_source / "val", disk / name) == 0
        assert same_bytes(disk / name, whole[name])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_room_is_looked_for_before_the_start(
    sample_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room nothing is begun, and the error says how much is needed."""
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    for options in ({}, {"mode": "raw"}):
        with pytest.raises(
            UserError, match=r"must have room for about .* more. Found: 1.0 MB free"
        ):
            convert(sample_source / "val", tmp_path / "out.beton", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_second_conversion_to_one_out_is_refused(sample_source: Path, tmp_path: Path) -> None:
    """While one conversion holds OUT another one ends with one line."""
    with locked_work(tmp_path / "out.beton"):
        with pytest.raises(UserError, match="only one conversion may write to an OUT"):
            convert(sample_source / "val", tmp_path / "out.beton")
    assert convert(sample_source / "val", tmp_path / "out.beton") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out.beton", "out.beton.json"}


def test_interrupted_and_resumed(
    whole: dict[str, Path],
    sample_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C keeps every image that was added, and says so; nothing looks like a whole OUT."""
    source = sample_source / "val"
    add = Journal.add

    def interrupted(journal: Journal, image: PreparedImage, *source: int) -> None:
        if journal.count == 20:
            raise KeyboardInterrupt
        add(journal, image, *source)

    for name in NAMES:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                convert(source, tmp_path / name)
        assert not (tmp_path / name).exists()
        assert "to go on with" in capsys.readouterr().err
        assert convert(source, tmp_path / name) == 0
        assert "going on after 20 of 40 images" in capsys.readouterr().err
        assert same_bytes(tmp_path / name, whole[name])


def test_larger_pages_when_a_larger_image_comes(sample_source: Path, tmp_path: Path) -> None:
    """Raw images beyond FFCV's page go on larger ones, resumed or not, in the same bytes."""
    source = tmp_path / "source"
    for number, side in enumerate((40, 2000, 30, 2600, 20)):
        folder = source / f"class{number}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
    one = tmp_path / "one" / "out.beton"
    assert convert(source, one, mode="raw") == 0
    assert verify(one, decode=True) == 0
    index = open_dataset(one)
    assert index.sizes.max() == 2600 * 2600 * 3 > 1 << 24
    assert (index.offsets // (1 << 25) == (index.offsets + index.sizes - 1) // (1 << 25)).all()
    killed = 0
    for moment in range(8, 60, 60 // often(7, 30)):
        out = tmp_path / str(moment) / "out.beton"
        if run_and_die(moment, source, out, mode="raw"):
            killed += 1
            assert convert(source, out, mode="raw", workers=1) == 0
            assert same_bytes(out, one)
    assert killed > often(2, 5)


def test_a_torn_journal_is_read_up_to_its_last_whole_block(tmp_path: Path) -> None:
    """Cut anywhere or with any byte changed, a journal gives a shorter, true prefix."""
    journal = Journal(tmp_path / "journal", 40)
    journal.begin({"a": 1})
    ends = []
    for number in range(40):
        note = "odd" if number == 5 else ""
        journal.add(PreparedImage(bytes(number), 0, number, 7, 99, note), 1, 2)
        if number % 10 == 9:
            journal.commit()
            ends.append((tmp_path / "journal").stat().st_size)
    records = journal.records.copy()
    journal.close()
    data = (tmp_path / "journal").read_bytes()
    rng = random.Random(0)
    for case in range(200):
        torn = bytearray(data)
        at = rng.randrange(len(data))
        if case % 2:
            del torn[at:]
        else:
            torn[at] ^= 1 << rng.randrange(8)
        (tmp_path / "torn").write_bytes(torn)
        again = Journal(tmp_path / "torn", 40)
        expected = 10 * sum(end <= at for end in ends)
        assert again.count == expected
        assert np.array_equal(again.records[:expected], records[:expected])
        assert again.remarks == [(5, "note", "odd")] * (expected > 0)
        again.close()


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(sample_source: Path, tmp_path: Path) -> None:
    """SIGKILL of the program leaves no worker behind, and the next run goes on."""
    command = [sys.executable, "-m", "fastdeit.tools.cli", "convert", "--workers", "2"]
    arguments = [*map(str, (sample_source / "train", tmp_path / "out.beton"))]
    process = subprocess.Popen([*command, *arguments, "--reencode", "all"])
    while not any(tmp_path.glob(".out.beton.partial/pages-*")):
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while left := [p for p in Path("/proc").glob("[0-9]*") if str(tmp_path) in cmdline(p)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert convert(sample_source / "train", tmp_path / "out.beton", reencode="all") == 0


def shards_of(found: dict[str, bytes]) -> dict[str, bytes]:
    """What lies in OUT itself."""
    return {name: data for name, data in found.items() if name.startswith("out/")}


def cmdline(process: Path) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
