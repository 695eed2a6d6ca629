"""CIFAR: read as torchvision reads it, and without running what is in the files."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

from fastdeit import UserError
from fastdeit.tools.data.sources.cifar import LAYOUTS, list_cifar
from fastdeit.tools.data.sources.inert_pickle import read_inert_pickle

PEERS = {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100}


def python2_pickle(value: Any) -> bytes:
    """Pickle as Python 2 did, protocol 2: strings are raw bytes and NumPy arrays hold one."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        shape = b"".join(_python2(side) for side in value.shape)
        kind = b"cnumpy\ndtype\n" + _python2("u1") + b"K\x00K\x01\x87R"
        kind += b"(K\x03" + _python2("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        state = b"(K\x01" + b"(" + shape + b"t" + kind + b"\x89" + _python2(value.tobytes()) + b"tb"
        call = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return call + state
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(each) for key, each in value.items())
        return b"}q\x01(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_python2(each) for each in value) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)
    data = value.encode() if isinstance(value, str) else value
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def python3_pickle(value: Any) -> bytes:
    """Pickle as Python 3 does."""
    return pickle.dumps(value, protocol=2)


WRITERS = {"python2": python2_pickle, "python3": python3_pickle}


def pixels_of(seed: int, rows: int = 6) -> NDArray[np.uint8]:
    """Random rows."""
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), np.uint8)


def make_cifar(root: Path, name: str, write: Any = python2_pickle) -> Path:
    """A CIFAR with six images in each file."""
    layout = LAYOUTS[name]
    folder = root / layout.folder
    folder.mkdir()
    num_classes = 10 if name == "CIFAR10" else 100
    for split, files in layout.splits.items():
        for seed, file in enumerate(files):
            names = [f"thing_s_{split}{seed}{n:04d}.png" for n in range(6)]
            content = {
                "batch_label": f"{split} {seed}",
                layout.labels: [(seed * 3 + n) % num_classes for n in range(6)],
                "data": pixels_of(seed + len(split)),
                "filenames": names,
            }
            if name == "CIFAR100":
                content["coarse_labels"] = [0] * 6
            (folder / file).write_bytes(write(content))
    meta = {"num_vis": 3072, layout.class_names: [f"class {n}" for n in range(num_classes)]}
    (folder / layout.meta).write_bytes(write(meta))
    return root


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", PEERS)
def test_against_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: str, writer: str
) -> None:
    """Pixels, labels and class names are torchvision's, in its order."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    root = make_cifar(tmp_path, name, WRITERS[writer])
    peer = PEERS[name](root, train=split == "train")
    listing = list_cifar(root, name, split)
    assert len(listing) == len(peer) == (30 if (name, split) == ("CIFAR10", "train") else 6)
    for number, (image, label) in enumerate(peer):
        pixels = listing.requests[number].read()
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, np.asarray(image))
        assert pixels.shape == (32, 32, 3)
        assert listing.labels[number] == label
    assert listing.class_names == peer.classes
    assert listing.names[1] == f"{split}/thing_s_{split}00001.png"
    assert listing.sizes.tolist() == [3072] * len(peer)


def test_the_folder_itself_is_a_root(tmp_path: Path) -> None:
    """Root may be the folder cifar-10-batches-py; without a split it is train."""
    root = make_cifar(tmp_path, "CIFAR10")
    inner = list_cifar(root / "cifar-10-batches-py", "CIFAR10")
    assert inner.fingerprint == list_cifar(root, "CIFAR10", "train").fingerprint


def test_names_that_are_not_unique(tmp_path: Path) -> None:
    """File names that come twice are not used."""
    root = make_cifar(tmp_path, "CIFAR100")
    content = {"fine_labels": [1, 2], "data": pixels_of(0, 2), "filenames": ["a.png", "a.png"]}
    (root / "cifar-100-python/test").write_bytes(python2_pickle(content))
    assert list(list_cifar(root, "CIFAR100", "test").names) == ["test/000000", "test/000001"]


def test_splits_and_missing_files(tmp_path: Path) -> None:
    """There is no val; and what is looked for is named."""
    with pytest.raises(UserError, match=r"one of train, test\. Found: val\."):
        list_cifar(tmp_path, "CIFAR10", "val")
    with pytest.raises(UserError, match=r"Found: no meta, train in .*cifar-100-python\. Unpack"):
        list_cifar(tmp_path, "CIFAR100")
    root = make_cifar(tmp_path, "CIFAR10")
    (root / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(UserError, match="Found: no data_batch_3 in"):
        list_cifar(root, "CIFAR10")


class Evil:
    """Unpickled, this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["test", "meta"])
def test_nothing_is_run(tmp_path: Path, place: str, protocol: int) -> None:
    """A pickle that runs a command when loaded runs nothing here, and is an error that says so."""
    root = make_cifar(tmp_path, "CIFAR100")
    proof = tmp_path / "proof"
    evil = pickle.dumps({"data": Evil(f"touch {proof}"), "fine_labels": []}, protocol)
    (root / "cifar-100-python" / place).write_bytes(evil)
    with pytest.raises(UserError, match=r"would import posix\.system in .*Unpack the original"):
        list_cifar(root, "CIFAR100", "test")
    assert not proof.exists()
    pickle.loads(evil)  # the proof that the proof is one
    assert proof.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": pixels_of(0)[:, :3000]}, r"18000 bytes that says its shape is \(6, 3000\)"),
        ({"data": pixels_of(0).reshape(6, 1024, 3)}, r"says its shape is \(6, 1024, 3\)"),
        ({"fine_labels": [1] * 5}, "6 images, 5 labels and 0 names"),
        ({"fine_labels": [1] * 5 + [100]}, "labels 1 to 100 for 100 classes"),
        ({"fine_labels": ["a"] * 6}, "no list of numbers `fine_labels`"),
        ({"fine_labels": {}}, "no list of numbers `fine_labels`"),
        ({"fine_labels": [], "data": pixels_of(0, 0)}, "0 images, 0 labels and 0 names"),
        ({"filenames": ["a"]}, "6 images, 6 labels and 1 names"),
        ({"data": pixels_of(0).tobytes()}, "no array `data`"),
    ],
)
def test_other_contents(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    """A pickle of something else is refused with what it holds."""
    root = make_cifar(tmp_path, "CIFAR100")
    good = {"data": pixels_of(0), "fine_labels": [1] * 6}
    (root / "cifar-100-python/test").write_bytes(python2_pickle(good))
    assert len(list_cifar(root, "CIFAR100", "test")) == 6
    (root / "cifar-100-python/test").write_bytes(python2_pickle(good | content))
    with pytest.raises(UserError, match=message):
        list_cifar(root, "CIFAR100", "test")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02]q", b"\x80\x02u."])
def test_what_is_no_pickle(tmp_path: Path, data: bytes) -> None:
    """Damaged files are one clear error."""
    root = make_cifar(tmp_path, "CIFAR10")
    (root / "cifar-10-batches-py/test_batch").write_bytes(data)
    with pytest.raises(UserError, match=r"must hold N images.*test_batch\. Unpack"):
        list_cifar(root, "CIFAR10", "test")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """However much of a file is missing, it is an error and not fewer images."""
    root = make_cifar(tmp_path, "CIFAR100")
    file = root / "cifar-100-python/test"
    whole = file.read_bytes()
    for size in (*range(0, 100, 7), *range(100, len(whole), 997), len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="must hold N images"):
            list_cifar(root, "CIFAR100", "test")


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -70000, 2**40, "x" * 300]}, [(), (1,), (1, 2, 3, 4)], {"k": None, "t": True}],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    """Numbers, strings, lists, tuples and dicts come back as they were."""
    assert read_inert_pickle(pickle.dumps(value, protocol), ()) == value


def test_keys_that_would_take_forever(tmp_path: Path) -> None:
    """A key of 2**60 nested parts is refused before it is hashed or shown."""
    data = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
    with pytest.raises(ValueError, match="keys that are neither text nor numbers"):
        read_inert_pickle(data, ())
    root = make_cifar(tmp_path, "CIFAR100")
    (root / "cifar-100-python/test").write_bytes(data)
    with pytest.raises(UserError, match="keys that are neither text nor numbers"):
        list_cifar(root, "CIFAR100", "test")


def test_shared_values_are_one(tmp_path: Path) -> None:
    """What a pickle stores once and mentions twice is one object, also if it holds itself."""
    inner = [1]
    first, second = read_inert_pickle(pickle.dumps([inner, inner], 2), ())
    assert first is second
    endless: list[Any] = []
    endless.append(endless)
    (result,) = read_inert_pickle(pickle.dumps(endless, 2), ())
    assert result[0] is result
