"""Whatever ImageNet lies in, the same images become the same bytes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from converted import convert_and_die, same_bytes
from PIL import Image
from sample_photographs import need_photographs

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.convert.work_folder import work_path
from fastdeit.tools.data.sample_data.command import sample_data
from fastdeit.tools.data.sources.detect import guess_kind, open_source
from fastdeit.tools.data.verify import verify

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 60 and 20 images as folders, as ILSVRC's archives, as shards and as Parquet."""
    need_photographs()
    root = tmp_path_factory.mktemp("layouts")
    assert sample_data(root / "folder", 60, 20) == 0
    assert sample_data(root / "ilsvrc", 60, 20, layout="ilsvrc") == 0
    folder = root / "folder" / "train"
    files = sorted(folder.rglob("*.JPEG"))
    labels = {path.name: n for n, path in enumerate(sorted(folder.iterdir()))}
    (root / "shards").mkdir()
    for number in range(3):
        with tarfile.open(root / "shards" / f"imagenet1k-train-{number:04d}.tar", "w") as archive:
            for file in files[number::3]:
                text = str(labels[file.parent.name]).encode()
                for name, data in ((".cls", text), (".jpg", file.read_bytes())):
                    member = tarfile.TarInfo(file.stem + name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    words = (root / "folder" / "LOC_synset_mapping.txt").read_text()
    (root / "LOC_synset_mapping.txt").write_text(words)
    return {"folder": folder, "ilsvrc": root / "ilsvrc", "shards": root / "shards", "root": root}


def parquet_of(folder: Path, path: Path) -> None:
    """Write an ImageFolder as Hugging Face writes imagenet-1k, in an order of its own."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = {each.name: number for number, each in enumerate(sorted(folder.iterdir()))}
    files = sorted(folder.rglob("*.JPEG"), key=lambda file: file.name[::-1])
    rows = {
        "image": [
            {"bytes": file.read_bytes(), "path": f"{file.stem}_{file.parent.name}.JPEG"}
            for file in files
        ],
        "label": [labels[file.parent.name] for file in files],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(rows), path, row_group_size=7)


def without_source(report: dict[str, object]) -> dict[str, object]:
    """A manifest without what it says of the source."""
    kept = {name: value for name, value in report.items() if name not in ("source", "parameters")}
    return kept


@pytest.mark.parametrize("kind", ["ilsvrc", "shards", "parquet", "beton", "our shards"])
@pytest.mark.parametrize("name", ["out.beton", "out"])
def test_every_source_gives_the_same_samples(
    kind: str, name: str, layouts: dict[str, Path], tmp_path: Path
) -> None:
    """Names, keys, order, labels, class names and bytes are those of the ImageFolder."""
    expected_path = layouts["root"] / "expected" / name
    convert(layouts["folder"], expected_path)
    expected = open_dataset(expected_path)
    source, split = layouts.get(kind, layouts["root"] / kind), None
    if kind == "ilsvrc":
        split = "train"
    elif kind == "parquet":
        parquet_of(layouts["folder"], source / "data" / "train-00000-of-00001.parquet")
    elif kind == "beton":
        source = layouts["root"] / "again.beton"
        convert(layouts["folder"], source)
    elif kind == "our shards":
        convert(layouts["folder"], source)
    assert convert(source, tmp_path / name, split=split) == 0
    found = open_dataset(tmp_path / name)
    for column in ("keys", "labels", "sizes", "widths", "heights", "checksums", "offsets"):
        left, right = getattr(found, column), getattr(expected, column)
        if kind in ("beton", "our shards") or column not in ("sizes",):
            assert np.array_equal(left, right), column
    assert list(found.names or ()) == list(expected.names or ())
    assert found.class_ids == expected.class_ids
    if kind != "parquet":  # which has no words beside it
        assert found.class_names == expected.class_names
    assert all(found.read(sample) == expected.read(sample) for sample in range(len(found)))
    assert verify(tmp_path / name, decode=True) == 0


def test_val_of_ilsvrc_is_the_folders(layouts: dict[str, Path], tmp_path: Path) -> None:
    """The validation archive, labelled by the development kit, equals the sorted folder."""
    convert(layouts["root"] / "folder" / "val", tmp_path / "a.beton")
    convert(layouts["ilsvrc"] / "ILSVRC2012_img_val.tar", tmp_path / "b.beton")
    one, other = open_dataset(tmp_path / "a.beton"), open_dataset(tmp_path / "b.beton")
    assert list(one.names or ()) == list(other.names or ())
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.checksums, other.checksums)
    assert one.class_ids == other.class_ids


def test_parquet_is_killed_and_goes_on(layouts: dict[str, Path], tmp_path: Path) -> None:
    """A conversion in two stages is killed in each of them, and ends in the same bytes."""
    import multiprocessing

    source = tmp_path / "source" / "train.parquet"
    parquet_of(layouts["folder"], source)
    assert convert(source, tmp_path / "one" / "out.beton") == 0
    stages = set()
    for moment in range(20, 400, 30):
        out = tmp_path / str(moment) / "out.beton"
        process = multiprocessing.get_context("forkserver").Process(
            target=convert_and_die, args=(moment, source, out, {})
        )
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        stages.add((work_path(out) / "spool").is_dir())
        assert convert(source, out, workers=1) == 0
        assert same_bytes(out, tmp_path / "one" / "out.beton")
        assert {path.name for path in out.parent.iterdir()} == {"out.beton", "out.beton.json"}
    assert stages == {False, True}


def test_parquet_in_parts(layouts: dict[str, Path], tmp_path: Path) -> None:
    """Parts of a Parquet source are joined to the bytes of one conversion."""
    source = tmp_path / "source" / "train.parquet"
    parquet_of(layouts["folder"], source)
    assert convert(source, tmp_path / "one" / "out") == 0
    for part in (1, 2, 3):
        assert convert(source, tmp_path / "out", part=f"{part}/3") == 0
    assert merge(tmp_path / "out") == 0
    assert same_bytes(tmp_path / "out", tmp_path / "one" / "out")


def test_bare_pixels_are_stored_without_loss(tmp_path: Path) -> None:
    """CIFAR's pixels arrive exactly: raw in a .beton, as PNG in shards; DALI and PIL read both."""
    from cifar_files import write_cifar10

    pixels, labels = write_cifar10(tmp_path / "cifar")
    for name in ("out.beton", "out"):
        assert convert(tmp_path / "cifar", tmp_path / name) == 0
        index = open_dataset(tmp_path / name)
        assert len(index) == len(pixels)
        names = list(index.names or ())
        for sample in range(0, len(index), 7):
            number = int(names[sample].rpartition("_")[2].partition(".")[0])
            assert np.array_equal(np.asarray(decode_with_pil(index, sample)), pixels[number])
            assert index.labels[sample] == labels[number]
        assert index.class_names[3] == "cat"
        assert verify(tmp_path / name, decode=True) == 0


def test_numbered_folders_are_numbered_so(tmp_path: Path) -> None:
    """Folders 0 to 11, as in ImageNet-V2, are classes 0 to 11, not 0, 1, 10, 11, 2."""
    for number in range(12):
        folder = tmp_path / "v2" / str(number)
        folder.mkdir(parents=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / "a.png")
    index = open_dataset(tmp_path / "v2")
    assert index.class_ids == tuple(map(str, range(12)))
    names = [name.split("/")[0] for name in index.names or ()]
    assert index.labels.tolist() == list(map(int, names))
    lines = "".join(f"n{90_000_000 + number} word{number}\n" for number in range(12))
    (tmp_path / "v2" / "LOC_synset_mapping.txt").write_text(lines)
    assert open_dataset(tmp_path / "v2").class_ids[10] == "n90000010"
    assert open_dataset(tmp_path / "v2").class_names[10] == "word10"


def test_kinds_are_seen_from_the_path(layouts: dict[str, Path], tmp_path: Path) -> None:
    """Each kind of source is recognised."""
    convert(layouts["folder"], tmp_path / "x.beton")
    convert(layouts["folder"], tmp_path / "x")
    (tmp_path / "flowers-102").mkdir()
    kinds = {
        layouts["folder"]: "imagefolder",
        layouts["ilsvrc"]: "ilsvrc",
        layouts["ilsvrc"] / "ILSVRC2012_img_val.tar": "ilsvrc",
        layouts["shards"]: "webdataset",
        layouts["shards"] / "imagenet1k-train-0000.tar": "webdataset",
        tmp_path / "x.beton": "container",
        tmp_path / "x": "container",
    }
    assert {path: guess_kind(path) for path in kinds} == kinds
    assert guess_kind(tmp_path / "flowers-102") == "torchvision"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"split chooses among several\. Found: val for .* Leave --split out"),
        ({"devkit": Path("kit")}, r"devkit is for ILSVRC's archives only\. Found: kit"),
        ({"torchvision": "CIFAR10", "kind": "parquet"}, "torchvision names a class for"),
        ({"kind": "parquet"}, r"source must be a \.parquet file"),
        ({"kind": "ilsvrc"}, r"source must hold the images of ILSVRC 2012"),
        ({"kind": "webdataset"}, r"shards must be \*\.tar\. Found: none"),
        ({"torchvision": "CIFAR11"}, r"CIFAR10"),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, object], message: str, layouts: dict[str, Path]
) -> None:
    """An option that another kind of source needs is refused, not ignored."""
    with pytest.raises(UserError, match=message):
        open_source(layouts["folder"], **options)  # type: ignore[arg-type]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two images whose names are one name are no dataset."""
    for shard, names in (("a", ("x", "y")), ("b", ("z",))):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for name in names:
                for suffix, data in ((".cls", b"0"), (".jpg", b"\xff")):
                    member = tarfile.TarInfo(f"n01440764_{1 if name != 'y' else 2}{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match="an image must be there once"):
        convert(tmp_path, tmp_path.parent / "out.beton")


def test_a_foreign_index_is_kept_and_renewed(layouts: dict[str, Path], tmp_path: Path) -> None:
    """The index of others' shards is made once, and again when a shard changes."""
    import shutil

    import fastdeit.pipelines.datasets.foreign as foreign

    shards = tmp_path / "shards"
    shutil.copytree(layouts["shards"], shards)
    first = open_dataset(shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "scan_shards", None)  # not called
        again = open_dataset(shards)
    assert list(again.names or ()) == list(first.names or ())
    for column in ("keys", "labels", "offsets", "sizes", "widths", "heights"):
        assert np.array_equal(getattr(again, column), getattr(first, column))
    (shards / "imagenet1k-train-0002.tar").unlink()
    assert len(open_dataset(shards)) == 40
    assert not [path for path in shards.iterdir() if path.suffix != ".tar"]
