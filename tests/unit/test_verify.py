"""`fastdeit verify` sees every byte."""

from __future__ import annotations

import random
import shutil
import tarfile
from pathlib import Path

import pytest
from sample_photographs import need_photographs

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.verify import verify

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixty images of at most 24 pixels, so that much of each file is not image."""
    need_photographs()
    from fastdeit.tools.data.sample_data.command import sample_data

    root = tmp_path_factory.mktemp("tiny")
    assert sample_data(root / "source", 60, 20) == 0
    made = {"beton": root / "tiny.beton", "webdataset": root / "tiny"}
    for out in made.values():
        assert convert(root / "source" / "train", out, max_side=24) == 0
        assert verify(out, decode=True, workers=1) == 0
    return made


def copy_of(path: Path, folder: Path) -> Path:
    """A copy of a container, without its manifest."""
    copied = folder / path.name
    if path.is_dir():
        shutil.copytree(path, copied)
    else:
        shutil.copy(path, copied)
    return copied


def files_of(path: Path) -> list[Path]:
    """The files of a container."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def flip(file: Path, at: int, value: int) -> None:
    """Change one byte."""
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ value]))


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_any_changed_byte_is_found(kind: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    """150 random bytes of each file, most of them outside the padding, changed one at a time."""
    path = copy_of(tiny[kind], tmp_path)
    rng = random.Random(kind)
    for file in files_of(path):
        data = file.read_bytes()
        used = [at for at in range(len(data)) if data[at]]
        places = [*rng.sample(used, 130), *(rng.randrange(len(data)) for _ in range(20))]
        for at in places:
            value = rng.randrange(1, 256)
            flip(file, at, value)
            assert verify(path, workers=1) == 1, (file, at, value)
            flip(file, at, value)
    assert verify(path, workers=1) == 0


def test_every_byte_of_a_header_counts(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Each byte of a .beton's header and descriptors that is not 0 is found when it changes."""
    path = copy_of(tiny["beton"], tmp_path)
    data = path.read_bytes()
    places = [at for at in range(24 + 2 * 1041) if data[at]]
    assert len(places) >= 30
    for at in [*places, 20, 1000, 2100]:
        flip(path, at, 4)
        assert verify(path, workers=1) == 1, at
        flip(path, at, 4)


def test_white_space_in_the_index_counts(tiny: dict[str, Path], tmp_path: Path) -> None:
    """A space of the index that became a tab, which JSON would not mind, is found."""
    path = copy_of(tiny["webdataset"], tmp_path)
    head = (path / "index.safetensors").read_bytes()[:2000]
    places = [at for at in range(8, len(head)) if head[at] == ord(" ")]
    assert len(places) > 5
    for at in places[:5]:
        flip(path / "index.safetensors", at, ord(" ") ^ ord("\t"))
        assert verify(path, workers=1) == 1
        flip(path / "index.safetensors", at, ord(" ") ^ ord("\t"))


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_a_changed_image_or_label_names_its_sample(
    kind: str, tiny: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is changed in a sample's bytes, or in its label, is said with the sample's name."""
    path = copy_of(tiny[kind], tmp_path)
    index = open_dataset(path)
    assert index.names is not None
    file = index.files[index.file_ids[7]]
    offset, size = int(index.offsets[7]), int(index.sizes[7])
    label_at = offset + -(-size // 512) * 512 + 512
    if kind == "beton":  # header, two descriptors, eight records of 24 bytes, 16 bytes of image
        label_at = 24 + 2 * 1041 + 7 * 24 + 16
    for at, what in ((offset + 100, "checksum"), (label_at, "label" if kind != "beton" else "rec")):
        flip(file, at, 1)
        capsys.readouterr()
        assert verify(path, workers=1) == 1
        errors = capsys.readouterr().err
        assert f"{index.names[7]}, sample 7, key" in errors
        assert what in errors
        assert errors.count("bad: ") == 1
        flip(file, at, 1)


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_a_cut_names_what_is_lost(
    kind: str, tiny: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut at 40 places of each file, verify ends with 1 and names every sample that is lost."""
    path = copy_of(tiny[kind], tmp_path)
    index = open_dataset(tiny[kind])
    rng = random.Random(kind)
    for file in files_of(path):
        whole = file.read_bytes()
        for cut in sorted(rng.sample(range(len(whole)), 40)):
            file.write_bytes(whole[:cut])
            capsys.readouterr()
            assert verify(path, workers=1) == 1, (file, cut)
            errors = capsys.readouterr().err
            if file.suffix in (".beton", ".tar") and "every sample" not in errors:
                lost = index.offsets + index.sizes > cut  # there is one shard
                for sample in lost.nonzero()[0].tolist():
                    assert f"sample {sample}," in errors, (file, cut)
        file.write_bytes(whole)
    assert verify(path, workers=1) == 0


def test_several_shards(sample_source: Path, tmp_path: Path) -> None:
    """Each of several shards has about the size asked for, an .idx, and is checked."""
    assert convert(sample_source / "val", tmp_path / "out", shard_mib=1) == 0
    index = open_dataset(tmp_path / "out")
    assert len(index.files) == 4
    assert verify(tmp_path / "out", decode=True) == 0
    for file in index.files:
        assert file.stat().st_size % 10_240 == 0
        with tarfile.open(file) as archive:
            names = archive.getnames()
        lines = file.with_suffix(".idx").read_text().splitlines()
        assert lines[0] == f"v1.2 {len(lines) - 1}"
        assert [name for line in lines[1:] for name in line.split()[3::4]] == names
        flip(file, file.stat().st_size - 1, 1)
        assert verify(tmp_path / "out", workers=1) == 1
        flip(file, file.stat().st_size - 1, 1)


def test_what_is_missing_or_added(tiny: dict[str, Path], tmp_path: Path) -> None:
    """A shard or .idx that is gone, a strange file and bytes at the end are found."""
    path = copy_of(tiny["webdataset"], tmp_path)
    for name in ("shard-000000.tar", "shard-000000.idx"):
        (path / name).rename(tmp_path / name)
        assert verify(path) == 1
        (tmp_path / name).rename(path / name)
    (path / "strange.txt").write_text("?")
    assert verify(path) == 1
    (path / "strange.txt").unlink()
    shutil.copy(path / "shard-000000.tar", path / "shard-000001.tar")
    assert verify(path) == 1
    beton = copy_of(tiny["beton"], tmp_path)
    with beton.open("ab") as file:
        file.write(b"\0")
    assert verify(beton) == 1


def test_a_manifest_that_says_something_else(tiny: dict[str, Path], tmp_path: Path) -> None:
    """OUT.json that was changed is found; one that is gone is not missed."""
    path = copy_of(tiny["beton"], tmp_path)
    manifest = tmp_path / "tiny.beton.json"
    manifest.write_text(Path(f"{tiny['beton']}.json").read_text())
    assert verify(path) == 0
    manifest.write_text(manifest.read_text().replace('"num_images": 60', '"num_images": 61'))
    assert verify(path) == 1


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    """Nothing at the path is bad input, not a damaged dataset."""
    with pytest.raises(UserError, match=r"dataset does not exist\. Found: "):
        verify(tmp_path / "missing.beton")
