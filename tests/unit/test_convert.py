"""Conversion: bytes untouched, nothing lost in silence, nothing half done."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from converted import same_bytes
from PIL import Image
from sample_photographs import need_photographs

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import checksum, open_dataset, sample_key
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.prepare_image import CHUNK_BYTES, ImageOptions, Preparation
from fastdeit.tools.data.sample_data.command import sample_data
from fastdeit.tools.data.sources.detect import open_source
from fastdeit.tools.data.verify import verify
from fastdeit.tools.data.workers import CHUNK

pytestmark = pytest.mark.slow  # as a whole

REENCODED = ("CMYK", "PNG")


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_bytes_pass_through(kind: str, containers: dict[str, Path], sample_source: Path) -> None:
    """Every plain JPEG is in the container byte by byte, under its name, label, size and key."""
    index = open_dataset(containers[kind])
    assert index.names is not None
    assert index.checksums is not None
    odd = {entry["name"]: entry["reason"] for entry in index.made_by["irregular"]}
    assert len(index) == 300
    for sample, name in enumerate(index.names):
        data = index.read(sample)
        original = (sample_source / "train" / name).read_bytes()
        assert index.class_ids[index.labels[sample]] == name.split("/")[0]
        assert index.keys[sample] == sample_key(name)
        assert index.checksums[sample] == checksum(data)
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (index.widths[sample], index.heights[sample])
        if not any(word in odd.get(name, "") for word in REENCODED):
            assert data == original, name


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_oddities_arrive_as_pil_reads_them(
    kind: str, containers: dict[str, Path], sample_source: Path
) -> None:
    """CMYK and PNG become RGB JPEGs within a few levels; the others are the same pixels."""
    index = open_dataset(containers[kind])
    record = json.loads((sample_source / "sample-data.json").read_text())
    places = {name: number for number, name in enumerate(index.names or ())}
    oddities = [entry for entry in record["oddities"] if entry["path"].startswith("train/")]
    assert len(oddities) >= 8
    for entry in oddities:
        name = entry["path"].removeprefix("train/")
        with Image.open(sample_source / "train" / name) as image:
            original = np.asarray(image.convert("RGB")).astype(int)
        found = np.asarray(decode_with_pil(index, places[name])).astype(int)
        assert found.shape == original.shape
        difference = np.abs(found - original)
        is_encoded_again = entry["kind"] in ("cmyk", "png")
        assert difference.mean() < (3 if is_encoded_again else 1e-9), entry


def test_both_containers_hold_the_same(containers: dict[str, Path]) -> None:
    """Names, keys, labels and bytes agree, in the same order, which is shuffled."""
    beton, shards = open_dataset(containers["beton"]), open_dataset(containers["webdataset"])
    for column in ("keys", "labels", "sizes", "checksums", "widths", "heights"):
        assert np.array_equal(getattr(beton, column), getattr(shards, column)), column
    assert list(beton.names or ()) == list(shards.names or ())
    assert beton.class_names == shards.class_names
    assert len(np.unique(beton.labels[:40])) > 10  # not sorted by class


def test_class_names_come_from_the_mapping(containers: dict[str, Path]) -> None:
    """Words of LOC_synset_mapping.txt are the class names."""
    index = open_dataset(containers["beton"])
    assert "spiral" in [name.split(",")[0] for name in index.class_names]
    assert all(class_id[0] == "n" and len(class_id) == 9 for class_id in index.class_ids)


def test_second_conversion_is_at_once(
    containers: dict[str, Path], sample_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same conversion again leaves the file as it is."""
    before = containers["beton"].stat()
    assert convert(sample_source / "train", containers["beton"]) == 0
    assert containers["beton"].stat() == before
    assert "is already there" in capsys.readouterr().err


def test_conversion_is_deterministic(
    containers: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """One worker writes the same bytes as several."""
    assert convert(sample_source / "train", tmp_path / "again.beton", workers=1) == 0
    assert (tmp_path / "again.beton").read_bytes() == containers["beton"].read_bytes()


def test_something_else_is_not_replaced(
    containers: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """OUT that holds other data is refused, and replaced only with --overwrite."""
    out = tmp_path / "out.beton"
    shutil.copy(containers["val"], out)
    shutil.copy(f"{containers['val']}.json", f"{out}.json")
    with pytest.raises(UserError, match=r"OUT must not hold something else\. Found: "):
        convert(sample_source / "train", out)
    assert out.read_bytes() == containers["val"].read_bytes()
    assert convert(sample_source / "train", out, overwrite=True) == 0
    assert out.read_bytes() == containers["beton"].read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_replaced(
    overwrite: bool, containers: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """Folders and files that convert did not make stay, with --overwrite too."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "precious.txt").write_text("keep me")
    shards = tmp_path / "shards"
    shutil.copytree(containers["webdataset"], shards)
    shutil.copy(f"{containers['webdataset']}.json", f"{shards}.json")
    (shards / "precious.txt").write_text("keep me")
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "x.beton").write_text("no beton")
    before = sorted(tmp_path.rglob("*"))
    for name in ("out", "shards", "package", "x.beton"):
        with pytest.raises(UserError, match=r"OUT must (be new|hold nothing but shards)"):
            convert(sample_source / "val", tmp_path / name, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "package.json").read_text() == "{}"


@pytest.mark.parametrize("out", ["source/train", "source", "source/train/x.beton", "."])
def test_the_source_is_never_replaced(out: str, sample_source: Path, tmp_path: Path) -> None:
    """OUT at, in or around the source is refused, with --overwrite too."""
    shutil.copytree(sample_source / "val", tmp_path / "source" / "train")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="OUT must be neither the source nor within it nor around"):
        convert(tmp_path / "source" / "train", tmp_path / out, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_out_is_made_again(
    containers: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """An OUT that was cut since it was made is not called whole; it is made again."""
    out = tmp_path / "train.beton"
    out.write_bytes(containers["beton"].read_bytes()[:100_000])
    shutil.copy(f"{containers['beton']}.json", f"{out}.json")
    assert convert(sample_source / "train", out) == 0
    assert out.read_bytes() == containers["beton"].read_bytes()


@pytest.mark.parametrize("kind", ["beton", "webdataset"])
def test_a_missing_manifest_is_written_again(
    kind: str, containers: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """An OUT whose OUT.json is gone says itself how it was made, and is known again."""
    name = containers[kind].name
    (shutil.copytree if kind == "webdataset" else shutil.copy)(containers[kind], tmp_path / name)
    assert convert(sample_source / "train", tmp_path / name) == 0
    expected = json.loads(Path(f"{containers[kind]}.json").read_text())
    assert json.loads((tmp_path / f"{name}.json").read_text()) == expected


def test_a_folder_of_splits_is_refused(sample_source: Path, tmp_path: Path) -> None:
    """The folder above train and val is no source of two classes."""
    with pytest.raises(UserError, match="source must be one split"):
        convert(sample_source, tmp_path / "out.beton")


@pytest.fixture(scope="module")
def broken_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with a truncated and an empty file."""
    need_photographs()
    root = tmp_path_factory.mktemp("broken") / "source"
    assert sample_data(root, 60, 20, broken=True) == 0
    return root / "train"


@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_bad_images_are_left_out_and_listed(broken_source: Path, name: str, tmp_path: Path) -> None:
    """With --bad skip both bad files are in the report and the 58 others are whole."""
    assert convert(broken_source, tmp_path / name, bad="skip") == 0
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(report["left_out"]) == 2
    index = open_dataset(tmp_path / name)
    assert len(index) == report["num_images"] == 58 == sum(report["images_per_class"])
    assert verify(tmp_path / name, decode=True) == 0


def test_no_sample_crosses_a_page(containers: dict[str, Path]) -> None:
    """FFCV reads page by page where the file is larger than memory: a sample must lie in one."""
    from fastdeit.pipelines.datasets.beton import MIN_PAGE_BYTES

    index = open_dataset(containers["beton"])
    first, last = index.offsets, index.offsets + index.sizes - 1
    assert np.array_equal(first // MIN_PAGE_BYTES, last // MIN_PAGE_BYTES)
    assert len(np.unique(first // MIN_PAGE_BYTES)) > 3
    assert first.min() >= MIN_PAGE_BYTES  # after the head


@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_a_bad_image_stops_and_skip_goes_on(
    broken_source: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default a bad image is named; what was done stays, and --bad skip goes on with it."""
    with pytest.raises(
        UserError, match=r"every image must decode. Found: n\d+/.*JPEG in .*--bad skip"
    ):
        convert(broken_source, tmp_path / name)
    assert not (tmp_path / name).exists()
    assert "to go on with" in capsys.readouterr().err
    assert convert(broken_source, tmp_path / name, bad="skip") == 0
    assert "going on after" in capsys.readouterr().err
    assert convert(broken_source, tmp_path / "again" / name, bad="skip") == 0
    assert same_bytes(tmp_path / name, tmp_path / "again" / name)
    with pytest.raises(UserError, match="which was made without 2 images"):
        convert(broken_source, tmp_path / name)


def test_bad_images_are_listed_and_nothing_is_written(
    broken_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --bad list every bad image is named with its reason, and the exit code says so."""
    assert convert(broken_source, tmp_path / "out.beton", bad="list") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bad: ")]
    assert len(lines) == 2
    assert any("an empty file" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_tasks_are_small_in_bytes_too(sample_source: Path) -> None:
    """A task ends with a few images, or with fewer if they are large; none is lost or moved."""
    listing = open_source(sample_source / "train")
    large = replace(listing, sizes=np.where(np.arange(len(listing)) % 50 == 0, 3 << 20, 1000))
    prepare = Preparation(large, ImageOptions(lossless="raw"), 1)
    places = np.random.default_rng(0).permutation(len(listing))
    chunks = list(prepare._chunks(places))
    assert max(map(len, chunks)) == CHUNK
    assert [key for chunk in chunks for key, _ in chunk] == [
        sample_key(listing.names[int(place)]) for place in places
    ]
    sizes = dict(zip((sample_key(name) for name in large.names), large.sizes.tolist(), strict=True))
    for chunk in chunks:
        assert all(sizes[key] < CHUNK_BYTES for key, _ in chunk[:-1])
