"""torchvision's datasets: listed as torchvision itself orders, labels and decodes them."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from fastdeit import UserError
from fastdeit.tools.data.sources.listing import FileRange
from fastdeit.tools.data.sources.pixels import PixelImage
from fastdeit.tools.data.sources.vision_open import VisionItem
from fastdeit.tools.data.sources.vision_sets import guess_vision_set, list_vision_set

scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")


def pixels(seed: int, *shape: int) -> Any:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def image(file: Path, seed: int) -> str:
    """Write an image of random pixels; its name's ending is its format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, 8 + seed, 9, 3)).save(file)
    return file.name


def text(file: Path, *lines: str) -> None:
    """Write lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def make_flowers(root: Path) -> None:
    """Oxford 102 Flowers with six images; those of a split are in no order."""
    folder = root / "flowers-102"
    for number in range(1, 7):
        image(folder / f"jpg/image_{number:05d}.jpg", number)
    scipy_io.savemat(folder / "imagelabels.mat", {"labels": [[3, 102, 1, 7, 7, 2]]})
    ids = {"trnid": [[5, 1, 3]], "valid": [[6, 2]], "tstid": [[4, 6]]}
    scipy_io.savemat(folder / "setid.mat", ids)


def make_cars(root: Path) -> None:
    """Stanford Cars with three images of each split."""
    folder = root / "stanford_cars"
    kind = [("fname", object), ("class", object)]
    for split, file in (
        ("train", "devkit/cars_train_annos"),
        ("test", "cars_test_annos_withlabels"),
    ):
        names = [image(folder / f"cars_{split}/{n:05d}.jpg", n + len(split)) for n in (2, 1, 3)]
        rows = np.array(list(zip(names, (2, 1, 3), strict=True)), dtype=kind)
        (folder / "devkit").mkdir(exist_ok=True)
        scipy_io.savemat(folder / f"{file}.mat", {"annotations": rows})
    names = np.array(["AM General Hummer", "Acura RL", "Acura TL"], dtype=object)
    scipy_io.savemat(folder / "devkit/cars_meta.mat", {"class_names": names})


def make_pets(root: Path) -> None:
    """Oxford-IIIT Pet: a class without the argument `loader`."""
    folder = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [f"Abyssinian_{n} 1 1 1" for n in (3, 1)] + ["beagle_2 2 2 1", "beagle_7 2 2 2"]
        text(folder / f"annotations/{split}.txt", *lines)
    for number, name in enumerate(("Abyssinian_3", "Abyssinian_1", "beagle_2", "beagle_7")):
        image(folder / f"images/{name}.jpg", number)


def make_signs(root: Path) -> None:
    """GTSRB: PPM files, a class without the argument `loader`."""
    for number, label in enumerate((1, 0, 1)):
        image(root / f"gtsrb/GTSRB/Training/{label:05d}/{number:05d}.ppm", number)


def make_food(root: Path) -> None:
    """Food-101: the split is a JSON file."""
    names = {"pizza": ["pizza/12", "pizza/3"], "apple_pie": ["apple_pie/9"]}
    text(root / "food-101/meta/train.json", json.dumps(names))
    text(root / "food-101/meta/test.json", json.dumps({"pizza": ["pizza/12"]}))
    for number, name in enumerate((*names["pizza"], *names["apple_pie"])):
        image(root / f"food-101/images/{name}.jpg", number)


def make_countries(root: Path) -> None:
    """Country211: an ImageFolder whose val is called valid."""
    for number, name in enumerate(("AD/x", "ZW/a", "AD/b")):
        for split in ("train", "valid", "test"):
            image(root / f"country211/{split}/{name}.jpg", number)


def make_caltech(root: Path) -> None:
    """Caltech 101: images are opened by the class itself."""
    for category, count in (("BACKGROUND_Google", 1), ("Faces", 2), ("anchor", 3)):
        for number in range(1, count + 1):
            file = root / f"caltech101/101_ObjectCategories/{category}/image_{number:04d}.jpg"
            image(file, number + count)


def make_scenes(root: Path) -> None:
    """SUN397: the order is the file system's."""
    text(root / "SUN397/ClassName.txt", "/a/abbey", "/z/zoo")
    for number, name in enumerate(("z/zoo/sun_b", "a/abbey/sun_c", "a/abbey/sun_a")):
        image(root / f"SUN397/{name}.jpg", number)


def make_imagenette(root: Path) -> None:
    """Imagenette: classes with WordNet ids."""
    for number, name in enumerate(("n01440764/b", "n01440764/a", "n02102040/c")):
        for split in ("train", "val"):
            image(root / f"imagenette2/{split}/{name}.jpeg", number)


def make_house_numbers(root: Path) -> None:
    """SVHN: an array with channels first, from a .mat file."""
    for split in ("train", "test"):
        content = {"X": pixels(3, 32, 32, 3, 5), "y": [[1], [10], [3], [9], [1]]}
        scipy_io.savemat(root / f"{split}_32x32.mat", content)


def make_stl(root: Path) -> None:
    """STL10: an array with channels first, columns before rows."""
    folder = root / "stl10_binary"
    text(folder / "class_names.txt", *"abcdefghij")
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(pixels(4, 3, 3, 96, 96).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes([3, 1, 10]))
    (folder / "unlabeled_X.bin").write_bytes(pixels(4, 1, 3, 96, 96).tobytes())


def make_digits(root: Path) -> None:
    """MNIST: an array of grey images."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for split, count in (("train", 5), ("t10k", 3)):
        images = struct.pack(">4i", 2051, count, 28, 28) + pixels(5, count, 28, 28).tobytes()
        labels = struct.pack(">2i", 2049, count) + bytes([7, 0, 9, 4, 1][:count])
        for name, data in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{split}-{name}-ubyte").write_bytes(data)
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(data))


def make_faces(root: Path) -> None:
    """FER2013: neither files nor an array, so each item is asked for."""
    rows = [f"{n % 7},{' '.join(map(str, pixels(n, 48 * 48)))},Training" for n in range(4)]
    text(root / "fer2013/icml_face_data.csv", "emotion, pixels, Usage", *rows)


FILES, ARRAY, ITEMS = FileRange, PixelImage, VisionItem
SETS: dict[str, tuple[Callable[[Path], None], type, dict[str | None, dict[str, Any]]]] = {
    "Flowers102": (make_flowers, FILES, {s: {"split": s} for s in ("train", "val", "test")}),
    "StanfordCars": (make_cars, FILES, {s: {"split": s} for s in ("train", "test")}),
    "OxfordIIITPet": (make_pets, FILES, {s: {"split": s} for s in ("trainval", "test")}),
    "GTSRB": (make_signs, FILES, {"train": {}}),
    "Food101": (make_food, FILES, {s: {"split": s} for s in ("train", "test")}),
    "Country211": (make_countries, FILES, {"train": {}, "val": {"split": "valid"}}),
    "Caltech101": (make_caltech, FILES, {None: {}}),
    "SUN397": (make_scenes, FILES, {None: {}}),
    "Imagenette": (make_imagenette, FILES, {s: {"split": s} for s in ("train", "val")}),
    "SVHN": (make_house_numbers, ARRAY, {s: {"split": s} for s in ("train", "test")}),
    "STL10": (make_stl, ARRAY, {s: {"split": s} for s in ("train", "test")}),
    "MNIST": (make_digits, ARRAY, {"train": {"train": True}, "test": {"train": False}}),
    "FER2013": (make_faces, ITEMS, {"train": {}}),
}


@pytest.fixture(autouse=True)
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision takes our small files for the real ones."""
    for module in ("flowers102", "svhn", "stl10", "fer2013"):
        check = f"torchvision.datasets.{module}.check_integrity"
        monkeypatch.setattr(check, lambda path, *_, **__: Path(path).is_file())


def rgb(data: Any) -> Any:
    """The pixels that a request's answer decodes to."""
    if isinstance(data, bytes):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return data


@pytest.mark.parametrize(
    ("name", "split"), [(name, each) for name in SETS for each in SETS[name][2]]
)
def test_against_torchvision(tmp_path: Path, name: str, split: str | None) -> None:
    """Every label and pixel is that of torchvision's item, and files pass through untouched."""
    make, way, splits = SETS[name]
    make(tmp_path)
    peer = getattr(torchvision.datasets, name)(tmp_path, **splits[split])
    listing = list_vision_set(tmp_path, name.lower(), split)
    items = [(np.asarray(image.convert("RGB")), int(label)) for image, label in peer]
    if name == "SUN397":
        order = np.argsort([str(file) for file in peer._image_files])
        items = [items[number] for number in order]
    assert len(listing) == len(listing.requests) == len(items) >= 1
    for number, (expected, label) in enumerate(items):
        request = listing.requests[number]
        data = pickle.loads(pickle.dumps(request)).read()
        found = rgb(data)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)
        assert listing.labels[number] == label
        assert type(request) is way
        if way == FILES:
            assert data == (tmp_path / listing.names[number]).read_bytes()
            assert listing.sizes[number] == len(data)
        else:
            assert listing.names[number] == f"{split}/{number:06d}"
            assert listing.sizes[number] == expected.size
    assert len(set(listing.names)) == len(items)
    assert len(listing.class_ids) == len(listing.class_names) > listing.labels.max()
    if hasattr(peer, "classes"):
        assert listing.class_names[0] in (peer.classes[0], " ".join(peer.classes[0]))


def test_no_split_is_train(tmp_path: Path) -> None:
    """Without a split it is train."""
    make_flowers(tmp_path)
    names = ["flowers-102/jpg/image_00005.jpg", "flowers-102/jpg/image_00001.jpg"]
    listing = list_vision_set(tmp_path, "Flowers102")
    assert list(listing.names)[:2] == names
    assert listing.class_names[101] == "blackberry lily"
    inner = list_vision_set(tmp_path / "flowers-102", "flowers-102")
    assert inner.fingerprint == listing.fingerprint


def test_flowers_train_and_val_together(tmp_path: Path) -> None:
    """Trainval is train, then val: what DeiT is fine-tuned on (Table 6)."""
    make_flowers(tmp_path)
    both, train, val = (
        list_vision_set(tmp_path, "Flowers102", split) for split in ("trainval", "train", "val")
    )
    assert list(both.names) == [*train.names, *val.names]
    assert both.labels.tolist() == [*train.labels, *val.labels]
    assert both.class_names == train.class_names


def test_class_ids_are_wordnets_where_they_are_known(tmp_path: Path) -> None:
    """Imagenette says the WordNet ids of its classes."""
    make_imagenette(tmp_path)
    listing = list_vision_set(tmp_path, "Imagenette")
    assert listing.class_ids == ["n01440764", "n02102040"]
    assert listing.class_names[0].startswith("tench")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Flowers12", r"torchvision's classes\. Found: Flowers12\. Do you mean Flowers102"),
        ("standford-cars", "Do you mean StanfordCars"),
        ("qqq", "Do you mean CIFAR10, Flowers102 or another"),
        ("imagenet", r"Found: ImageNet; it is read without torchvision\. Give the folder"),
        ("lsun", r"its loader runs a pickle"),
        ("cococaptions", "no more than a folder and a split.*CocoCaptions, which needs annFile"),
    ],
)
def test_names_of_datasets(tmp_path: Path, name: str, message: str) -> None:
    """A name is found whatever its case; a wrong one gets suggestions, a refused one its reason."""
    with pytest.raises(UserError, match=message):
        list_vision_set(tmp_path, name)


def test_impossible_splits(tmp_path: Path) -> None:
    """A split that a class does not have is an error that names those it has."""
    make_cars(tmp_path)
    make_digits(tmp_path)
    make_pets(tmp_path)
    make_scenes(tmp_path)
    with pytest.raises(UserError, match=r"must be one of 'train', 'test'\. Found: val\."):
        list_vision_set(tmp_path, "StanfordCars", "val")
    with pytest.raises(UserError, match=r"must be one of train, test\. Found: val\."):
        list_vision_set(tmp_path, "MNIST", "val")
    with pytest.raises(UserError, match=r"'trainval', 'test'\. Found: none given\."):
        list_vision_set(tmp_path, "OxfordIIITPet")
    with pytest.raises(UserError, match=r"SUN397 has no splits\. Found: test"):
        list_vision_set(tmp_path, "SUN397", "test")


def test_missing_files_are_named(tmp_path: Path) -> None:
    """What is looked for is named in one line, nothing is downloaded or left behind."""
    with pytest.raises(UserError, match=r"Found: none at .*nowhere\. Give torchvision's root"):
        list_vision_set(tmp_path / "nowhere", "Flowers102")
    for name in ("Flowers102", "StanfordCars", "Caltech101", "MNIST", "INaturalist", "GTSRB"):
        with pytest.raises(UserError, match=r"must have .* Found: .*\. \w+") as caught:
            list_vision_set(tmp_path, name)
        assert "download=True" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    make_cars(tmp_path)
    (tmp_path / "stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(UserError, match=r"Found: no stanford_cars/cars_test_annos_withlabels.mat"):
        list_vision_set(tmp_path, "StanfordCars", "test")


def test_missing_images(tmp_path: Path) -> None:
    """One image that is missing is bad when it is read; if all are, it is an error at once."""
    make_flowers(tmp_path)
    (tmp_path / "flowers-102/jpg/image_00001.jpg").unlink()
    listing = list_vision_set(tmp_path, "Flowers102")
    assert listing.sizes[1] == 0 < listing.sizes[0]
    with pytest.raises(FileNotFoundError):
        listing.requests[1].read()
    for file in (tmp_path / "flowers-102/jpg").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"must hold images\. Found: none of 3 is there"):
        list_vision_set(tmp_path, "Flowers102")


def test_files_that_do_not_match_their_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are there but broken are not called missing."""
    make_flowers(tmp_path)
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: False)
    with pytest.raises(
        UserError, match=r"Found: RuntimeError: Dataset not found or corrupted\. in"
    ):
        list_vision_set(tmp_path, "Flowers102")


def test_labels_are_needed(tmp_path: Path) -> None:
    """A split without labels is refused."""
    make_stl(tmp_path)
    with pytest.raises(UserError, match=r"numbered from 0\. Found: -1 in STL10"):
        list_vision_set(tmp_path, "STL10", "unlabeled")


def test_an_array_that_disagrees_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a class gives other pixels or labels than its attributes, its items are taken."""
    make_digits(tmp_path)
    real = torchvision.datasets.MNIST.__getitem__

    def other(dataset: Any, number: int) -> Any:
        image, label = real(dataset, number)
        return image.rotate(90), 9 - label

    monkeypatch.setattr(torchvision.datasets.MNIST, "__getitem__", other)
    listing = list_vision_set(tmp_path, "MNIST", "test")
    peer = torchvision.datasets.MNIST(tmp_path, train=False)
    for number in range(3):
        found = listing.requests[number].read()
        assert np.array_equal(found, np.asarray(peer[number][0].convert("RGB")))
    assert listing.labels.tolist() == [2, 9, 0]


def test_scipy_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without scipy the error says what to install."""
    make_cars(tmp_path)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "scipy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"scipy.*pip install 'fastdeit\[convert\]'"):
        list_vision_set(tmp_path, "StanfordCars")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cifar-10-batches-py/", "CIFAR10"),
        ("cifar-100-python/", "CIFAR100"),
        ("flowers-102/", "Flowers102"),
        ("stanford_cars/", "StanfordCars"),
        ("train2018.json", "INaturalist"),
        ("train2019.json", "INaturalist"),
        ("n01440764/", None),
    ],
)
def test_known_roots_are_recognised(tmp_path: Path, path: str, name: str | None) -> None:
    """The datasets that DeiT is fine-tuned on are known by what their roots hold."""
    target = tmp_path / path
    target.mkdir() if path.endswith("/") else target.touch()
    assert guess_vision_set(tmp_path) == name
    assert not path.endswith("/") or guess_vision_set(target) == name
    (tmp_path / "cifar-10-batches-py").mkdir(exist_ok=True)
    (tmp_path / "flowers-102").mkdir(exist_ok=True)
    assert guess_vision_set(tmp_path) is None
    assert guess_vision_set(tmp_path / "nowhere") is None
