"""A source that changes while its conversion is unfinished is not mixed into OUT."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from converted import same_bytes
from PIL import Image

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset, sample_key
from fastdeit.tools.data.convert import journal as journals
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.journal import Journal
from fastdeit.tools.data.convert.work_folder import work_path

NUM_IMAGES = 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of 8 pictures of 2 classes."""
    for number in range(NUM_IMAGES):
        file = tmp_path / "set" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number * 30, 0, 0)).save(file)
    return tmp_path / "set"


def in_order(source: Path) -> list[Path]:
    """The files in the order in which they are written."""
    return sorted(
        source.rglob("*.jpg"), key=lambda file: sample_key(file.relative_to(source).as_posix())
    )


def stop_at(file: Path, source: Path, out: Path) -> bytes:
    """Convert up to an image that is bad for once; its bytes as they were."""
    before, stat = file.read_bytes(), file.stat()
    file.write_bytes(b"no image" * 9)
    with pytest.raises(UserError, match="every image must decode"):
        convert(source, out, workers=1)
    file.write_bytes(before)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return before


def later(file: Path) -> None:
    """Let a file have changed later than it did."""
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_an_image_that_was_done_and_changed(name: str, source: Path, tmp_path: Path) -> None:
    """Other bytes of the same size are seen by the time; what is to come may have changed."""
    files = in_order(source)
    out = tmp_path / "x" / name
    stop_at(files[5], source, out)
    later(files[5])
    later(files[7])
    data = bytearray(files[2].read_bytes())
    data[-9] ^= 1
    files[2].write_bytes(data)
    later(files[2])
    name_of = files[2].relative_to(source).as_posix()
    found = rf"Found: 1 of 5 images that were done .*--source-changed ignore.*such as {name_of}, in"
    before = (work_path(out) / "journal").read_bytes()
    with pytest.raises(UserError, match=found):
        convert(source, out, workers=1)
    assert (work_path(out) / "journal").read_bytes() == before
    assert convert(source, out, workers=1, overwrite=True) == 0
    index = open_dataset(out)
    (sample,) = (n for n, each in enumerate(index.names or ()) if each == name_of)
    assert index.read(sample) == bytes(data)


def test_a_copy_that_did_not_keep_the_times(source: Path, tmp_path: Path) -> None:
    """With --source-changed ignore it goes on, to the same bytes; sizes still count."""
    files = in_order(source)
    whole, out = tmp_path / "whole" / "out", tmp_path / "x" / "out"
    assert convert(source, whole, workers=1) == 0
    stop_at(files[4], source, out)
    for file in files:
        later(file)
    kept = files[0].read_bytes()
    files[0].write_bytes(kept + b"x")
    found = "Found: 1 of 4 images that were done have changed since, such as"
    with pytest.raises(UserError, match=found):
        convert(source, out, workers=1, source_changed="ignore")
    files[0].write_bytes(kept)
    assert convert(source, out, workers=1, source_changed="ignore") == 0
    assert same_bytes(out, whole)


def test_a_finished_out_stays(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other times alone make no other source: a copy gives what is there already."""
    assert convert(source, tmp_path / "out", workers=1) == 0
    for file in in_order(source):
        later(file)
    assert convert(source, tmp_path / "out", workers=1) == 0
    assert "is already there, from the same source" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_an_image_that_changed_after_out_was_made(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUT is not called done then, though names and sizes are the same."""
    out, file = tmp_path / name, in_order(source)[3]
    assert convert(source, out, workers=1) == 0
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(0, time.time_ns() + 10**9))
    said = rf"{out}, and 1 images that changed later, such as {file.relative_to(source)}"
    with pytest.raises(UserError, match=said):
        convert(source, out, workers=1)
    assert convert(source, out, workers=1, source_changed="ignore") == 0
    assert "is already there" in capsys.readouterr().err
    assert convert(source, out, workers=1, bad="skip", overwrite=True) == 0
    assert len(open_dataset(out)) == NUM_IMAGES - 1


def test_an_archive_that_changed(source: Path, tmp_path: Path) -> None:
    """The time of a shard is that of its images."""
    files = in_order(source)
    files[6].write_bytes(b"no image" * 9)
    shards = tmp_path / "shards"
    shards.mkdir()
    for label, folder in enumerate("ab"):
        (tmp_path / "label").write_text(str(label))
        with tarfile.open(shards / f"{folder}.tar", "w") as tar:
            for file in sorted((source / folder).iterdir()):
                tar.add(file, file.name)
                tar.add(tmp_path / "label", f"{file.stem}.cls")
    with pytest.raises(UserError, match="every image must decode"):
        convert(shards, tmp_path / "out", workers=1)
    later(shards / "a.tar")
    later(shards / "b.tar")
    with pytest.raises(
        UserError, match=r"Found: \d of \d images that were done .* such as \d\.jpg"
    ):
        convert(shards, tmp_path / "out", workers=1)


def test_a_journal_without_times(source: Path, tmp_path: Path) -> None:
    """What an older version began goes on, whatever the times are."""
    files = in_order(source)
    whole, out = tmp_path / "whole" / "out", tmp_path / "x" / "out"
    assert convert(source, whole, workers=1) == 0
    stop_at(files[5], source, out)
    file = work_path(out) / "journal"
    old = np.dtype([(name, journals.RECORD[name]) for name in journals.RECORD.names[:-1]])
    blocks, at, data = b"", 0, file.read_bytes()
    while at < len(data):
        _, num, text_bytes, _ = journals._HEAD.unpack_from(data, at)
        at += journals._HEAD.size
        end = at + num * journals.RECORD.itemsize
        records: Any = np.zeros(num, old)
        for name in old.names or ():
            records[name] = np.frombuffer(data[at:end], journals.RECORD)[name]
        body = records.tobytes() + data[end : end + text_bytes]
        digest = xxhash.xxh3_64_intdigest(body)
        blocks += journals._HEAD.pack(b"fdjourn1", num, text_bytes, digest) + body
        at = end + text_bytes
    file.write_bytes(blocks)
    journal = Journal(file, NUM_IMAGES)
    assert (journal.count, journal.records["source_time"].tolist()) == (5, [0] * NUM_IMAGES)
    assert journal.records["size"][:5].all()
    journal.close()
    later(files[0])
    assert convert(source, out, workers=1) == 0
    assert same_bytes(out, whole)
