"""Parquet sources: the same names, labels and bytes as the folders that they were made from."""

from __future__ import annotations

import builtins
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import imagenet_name
from fastdeit.tools.data.sources import parquet_rows
from fastdeit.tools.data.sources.parquet_files import list_parquet

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

WORDNET_IDS = ("n01440764", "n01443537", "n01484850")
WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"]
LABEL = {"names": WORDS, "_type": "ClassLabel"}
FEATURES = {"info": {"features": {"image": {"_type": "Image"}, "label": LABEL}}}
NAME = "data/train-{:05d}-of-{:05d}-0123456789abcdef.parquet"


def bytes_of(number: int) -> bytes:
    """An image's bytes, of a length of its own."""
    return b"\xff\xd8" + bytes([number]) * (500 + number)


def train_row(number: int, label: int) -> dict[str, Any]:
    """A row as Hugging Face stores one of ImageNet's training images."""
    wordnet_id = WORDNET_IDS[label]
    path = f"{wordnet_id}_{number}_{wordnet_id}.JPEG"
    return {"image": {"bytes": bytes_of(number), "path": path}, "label": label}


def write(file: Path, rows: list[dict[str, Any]], features: Any = FEATURES, group: int = 4) -> Path:
    """Write rows to a Parquet file with Hugging Face's metadata."""
    table = pa.Table.from_pylist(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def image_struct(paths: list[str | None]) -> Any:
    """A column of images with some paths."""
    return [{"bytes": bytes_of(number), "path": path} for number, path in enumerate(paths)]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Two files of train and one of validation, as on the Hugging Face hub."""
    rows = [train_row(number, number * 7 % 3) for number in range(23)]
    write(tmp_path / NAME.format(0, 2), rows[:10])
    write(tmp_path / NAME.format(1, 2), rows[10:])
    val = [
        train_row(50 + n, n % 3)
        | {
            "image": {
                "bytes": bytes_of(50 + n),
                "path": f"ILSVRC2012_val_{n:08d}_{WORDNET_IDS[n % 3]}.JPEG",
            }
        }
        for n in range(5)
    ]
    write(tmp_path / "data/validation-00000-of-00001-ab.parquet", val)
    return tmp_path


def test_train_of_the_hub(hub: Path) -> None:
    """Names are those of ImageNet's folders; labels, bytes, ids and words are right, in order."""
    (hub / "data/._train-00000-of-00002.parquet").write_bytes(b"what macOS knows of a file")
    listing = list_parquet(hub, "train")
    labels = [number * 7 % 3 for number in range(23)]
    assert listing.labels.tolist() == labels
    assert listing.labels.dtype == np.int64
    assert list(listing.names) == [
        f"{WORDNET_IDS[label]}/{WORDNET_IDS[label]}_{number}.JPEG"
        for number, label in enumerate(labels)
    ]
    assert [listing.requests[n].read() for n in range(len(listing.requests))] == [
        bytes_of(n) for n in range(23)
    ]
    assert listing.class_ids == list(WORDNET_IDS)
    assert listing.class_names == WORDS
    assert listing.is_sequential
    assert len(listing.requests) == len(listing) == 23


def test_sizes_are_close(hub: Path) -> None:
    """The sizes, which are estimates, add up to the images' bytes and Parquet's few more."""
    sizes = list_parquet(hub, "validation").sizes
    true = sum(len(bytes_of(50 + number)) for number in range(5))
    assert sizes.shape == (5,)
    assert true <= sizes.sum() < 3 * true


def test_validation_of_the_hub(hub: Path) -> None:
    """Val is another word for validation; the WordNet id moves from the file's name to a folder."""
    first, second = list_parquet(hub, "val"), list_parquet(hub, "validation")
    assert list(first.names) == list(second.names)
    assert first.names[4] == "n01443537/ILSVRC2012_val_00000004.JPEG"
    assert first.requests[4].read() == bytes_of(54)


def test_one_file(hub: Path) -> None:
    """A single file is a source, whether or not it is one of many."""
    listing = list_parquet(hub / NAME.format(1, 2))
    assert len(listing) == 13
    assert listing.names[0] == f"{WORDNET_IDS[1]}/{WORDNET_IDS[1]}_10.JPEG"


def test_several_splits_need_a_choice(hub: Path) -> None:
    """Where a folder holds several splits one must be named, and it must be there."""
    with pytest.raises(UserError, match=r"one split\. Found: train, val in .* --split train"):
        list_parquet(hub)
    with pytest.raises(UserError, match=r"Found: test, and in .*: train, val"):
        list_parquet(hub, "test")


def test_labels_are_needed(tmp_path: Path) -> None:
    """The test split of ImageNet, whose labels are -1, is refused; so are nulls."""
    file = tmp_path / "test-00000-of-00001.parquet"
    write(file, [{"image": {"bytes": b"x", "path": "a.JPEG"}, "label": -1}])
    with pytest.raises(UserError, match=r"a label from 0\. Found: label -1 in .*test images"):
        list_parquet(tmp_path)
    write(file, [train_row(0, 0), train_row(1, 1) | {"label": None}])
    with pytest.raises(UserError, match=r"Found: null in"):
        list_parquet(tmp_path)
    write(file, [train_row(0, 0), train_row(1, 1) | {"label": 3}])
    with pytest.raises(UserError, match=r"below the number of classes \(3\)\. Found: 3"):
        list_parquet(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("n01440764_10026_n01440764.JPEG", "n01440764/n01440764_10026.JPEG"),
        ("train/n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10026.JPEG"),
        ("ILSVRC2012_val_00000001_n01751748.JPEG", "n01751748/ILSVRC2012_val_00000001.JPEG"),
        ("n01440764_10026_n01443537.JPEG", ""),
        ("ILSVRC2012_val_00000001.JPEG", ""),
        ("xn01440764_10026.JPEG", ""),
        ("", ""),
    ],
)
def test_imagenet_names(path: str, name: str) -> None:
    """Only what is ImageNet's own name is taken for it."""
    assert imagenet_name(path.rpartition(".")[0]) == name


def test_a_class_with_two_wordnet_ids_is_a_number(tmp_path: Path) -> None:
    """An id is recovered only where all images of a class agree; the others keep their paths."""
    rows = [train_row(0, 0), train_row(1, 1), train_row(2, 2), train_row(3, 2)]
    rows[3]["label"] = 1
    listing = list_parquet(write(tmp_path / "x.parquet", rows))
    assert listing.class_ids == [WORDNET_IDS[0], "1", WORDNET_IDS[2]]
    assert list(listing.names) == [
        "n01440764/n01440764_0.JPEG",
        "n01443537_1_n01443537.JPEG",
        "n01484850/n01484850_2.JPEG",
        "n01484850_3_n01484850.JPEG",
    ]


def test_names_without_imagenet(tmp_path: Path) -> None:
    """A unique path is the name; without one, or if it could leave a folder, the row is."""
    paths = ["b/2.png", None, "/home/x.png", "../x.png", "a.png"]
    rows = [{"image": image, "label": 0} for image in image_struct(paths)]
    listing = list_parquet(write(tmp_path / "x.parquet", rows, None, group=2))
    row = "x.parquet/row{:09d}".format
    assert list(listing.names) == ["b/2.png", row(1), row(2), row(3), "a.png"]
    assert listing.class_names == listing.class_ids == ["0"]


def test_names_that_are_not_unique(tmp_path: Path) -> None:
    """One path twice, in whatever files, and all images are named by file and row."""
    for number, paths in enumerate((["a.png", "b.png"], ["c.png", "a.png"])):
        rows = [{"image": image, "label": 0} for image in image_struct(list(paths))]
        write(tmp_path / f"x{number}.parquet", rows, None)
    assert list(list_parquet(tmp_path).names) == [
        f"x{file}.parquet/row{row:09d}" for file in range(2) for row in range(2)
    ]


def test_other_columns(tmp_path: Path) -> None:
    """A plain binary column, and labels by name, by Hugging Face's type, or as the only integer."""
    features = {"features": {"kind": {"names": {"1": "b", "0": "a"}, "_type": "ClassLabel"}}}
    row = {"jpg": b"abc", "kind": 1, "height": 3}
    listing = list_parquet(write(tmp_path / "a.parquet", [row], features))
    assert listing.class_names == ["a", "b"]
    assert listing.labels.tolist() == [1]
    assert listing.requests[0].read() == b"abc"
    fine = {"img": {"bytes": b"x"}, "fine_label": 1, "coarse_label": 0}
    assert list_parquet(write(tmp_path / "b.parquet", [fine])).labels.tolist() == [1]
    only = {"img": {"bytes": b"x"}, "target": 2, "text": "t"}
    assert list_parquet(write(tmp_path / "c.parquet", [only])).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": {"bytes": b"x"}, "b": {"bytes": b"x"}, "label": 0}, "one column of images .*: a, b"),
        ({"text": "x", "label": 0}, r"one column of images .*none among text \(string\), label"),
        ({"image": b"x", "height": 0, "width": 1}, "one column of labels .*: height, width in"),
        ({"image": b"x", "label": "cat"}, r"one column of labels .* none among .*label \(string\)"),
    ],
)
def test_columns_that_are_not_clear(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    """No column that could be meant, or two, is an error that names them."""
    with pytest.raises(UserError, match=message):
        list_parquet(write(tmp_path / "x.parquet", [row], None))


def test_files_that_differ(tmp_path: Path) -> None:
    """Files whose classes differ are not mixed."""
    write(tmp_path / "a.parquet", [train_row(0, 0)])
    write(tmp_path / "b.parquet", [train_row(1, 1)], None)
    with pytest.raises(UserError, match=r"the same columns and classes\. Found: a\.parquet and b"):
        list_parquet(tmp_path)


def test_missing_shards(hub: Path) -> None:
    """A split of which a file is missing, or there twice, is refused."""
    (hub / NAME.format(0, 2)).rename(hub / "data/train-00001-of-00002-other.parquet")
    with pytest.raises(UserError, match=r"complete: 2 files.* Found: 2, number 0 is missing in"):
        list_parquet(hub, "train")
    (hub / NAME.format(1, 2)).unlink()
    with pytest.raises(UserError, match=r"complete: 2 files.* Found: 1, number 0 is missing in"):
        list_parquet(hub, "train")


def test_broken_files(tmp_path: Path) -> None:
    """What is not there, holds nothing, or was cut is one clear error."""
    with pytest.raises(UserError, match=r"Found: nothing at .*nowhere\. Give the folder"):
        list_parquet(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Found: none in"):
        list_parquet(tmp_path)
    file = write(tmp_path / "x.parquet", [train_row(0, 0)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"whole Parquet files\. Found: .*x\.parquet \(.*Download"):
        list_parquet(tmp_path)
    start = pq.ParquetFile(write(file, [train_row(0, 0)])).metadata.row_group(0)
    place = start.column(2).dictionary_page_offset
    file.write_bytes(whole[:place] + b"\xff" * 20 + whole[place + 20 :])
    with pytest.raises(UserError, match=r"whole Parquet files\. Found: .*x\.parquet \(.*Download"):
        list_parquet(tmp_path)
    write(file, [train_row(0, 0)]).write_bytes(b"")
    with pytest.raises(UserError, match=r"whole Parquet files\. Found: .*x\.parquet"):
        list_parquet(file)


def test_null_images(tmp_path: Path) -> None:
    """A null image is listed, and reading it says why it is bad; its neighbours are read."""
    rows = [train_row(n, 0) for n in range(4)]
    rows[1]["image"] = None
    rows[2]["image"]["bytes"] = None
    listing = list_parquet(write(tmp_path / "x.parquet", rows))
    assert len(listing) == 4
    for number in (1, 2):
        with pytest.raises(ValueError, match="no image: null"):
            listing.requests[number].read()
    assert listing.requests[3].read() == bytes_of(3)


def test_a_file_that_changes_is_a_bad_image(tmp_path: Path) -> None:
    """A row that is no longer there when it is read raises what the conversion reports."""
    file = write(tmp_path / "x.parquet", [train_row(n, 0) for n in range(4)])
    requests = list_parquet(file).requests
    write(file, [train_row(0, 0)])
    with pytest.raises(ValueError, match="row group 0 has no row 3"):
        requests[3].read()
    assert requests[0].read() == bytes_of(0)


def test_rows_in_order_open_each_row_group_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading in order reads no row group twice; in another order it still reads right."""
    requests = list_parquet(hub, "train").requests
    opened = []
    start = parquet_rows.RowReader.open

    def count(reader: parquet_rows.RowReader, place: Any) -> None:
        opened.append(place)
        start(reader, place)

    monkeypatch.setattr(parquet_rows.RowReader, "open", count)
    monkeypatch.setattr(parquet_rows, "BATCH_ROWS", 3)
    parquet_rows._reader.close()
    assert [requests[n].read() for n in range(23)] == [bytes_of(n) for n in range(23)]
    assert len(opened) == len(set(opened)) == 7
    for number in (22, 3, 2, 9, 11, 0):
        assert requests[number].read() == bytes_of(number)


def test_requests_can_be_sent(hub: Path) -> None:
    """A request goes to another process in few bytes and reads the same there."""
    request = list_parquet(hub, "train").requests[12]
    sent = pickle.dumps(request)
    assert len(sent) < 400
    assert pickle.loads(sent).read() == bytes_of(12)


def test_the_fingerprint_tells(hub: Path) -> None:
    """Another label, and it is another source; unchanged, it is the same."""
    before = list_parquet(hub, "train").fingerprint
    assert before == list_parquet(hub, "train").fingerprint
    rows = [train_row(number, number * 7 % 3) for number in range(10)]
    rows[3]["label"] = 1
    write(hub / NAME.format(0, 2), rows)
    assert before != list_parquet(hub, "train").fingerprint


def test_pyarrow_is_named_where_it_is_missing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the error says what to install."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'fastdeit\[convert\]'"):
        list_parquet(hub, "train")
