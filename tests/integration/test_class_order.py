"""Two sets, or a set and a model, whose classes are the same in another order, or in part."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import (
    checkpoint_content,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from fastdeit.config import ModelConfig
from fastdeit.machine.device import choose_compute
from fastdeit.machine.distributed import World
from fastdeit.models import make_model
from fastdeit.models.initialise import initialise_from
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.real_labels import read_real_labels
from fastdeit.pipelines.open import train_plan
from fastdeit.pipelines.teacher_labels import LabelStore
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.cli import main
from fastdeit.tools.train.command import open_sets
from fastdeit.training.teacher import load_teacher

IDS = ("n01440764", "n01443537", "n01484850")
SMALL = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=24, depth=1, num_heads=2
)
SHORT = (
    "--engine", "pil", "--threads", "1", "--device", "cpu", "--image-size", "32",
    "--batch-size", "6", "--epochs", "2", "--warmup-epochs", "0", "--keep-checkpoints", "2",
)  # fmt: skip


def shards(folder: Path, numbers: dict[str, int], num_images: int = 4) -> Path:
    """Somebody's shards, which count ImageNet's classes as they like, with images to each."""
    folder.mkdir()
    with tarfile.open(folder / "000.tar", "w") as tar:
        for image in range(num_images):
            for wnid, number in numbers.items():
                pixels = np.random.default_rng([image, int(wnid[1:])]).integers(0, 255, (4, 4, 3))
                picture = Image.fromarray(pixels.astype(np.uint8)).resize((32, 32))
                data = io.BytesIO()
                picture.save(data, "JPEG")
                name = f"ILSVRC2012_val_{image * 3 + IDS.index(wnid) + 1:08d}_{wnid}"
                for end, content in (("jpg", data.getvalue()), ("cls", str(number).encode())):
                    entry = tarfile.TarInfo(f"{name}.{end}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images: in WordNet's order, in another, of two classes only, and counted from 1."""
    root = tmp_path_factory.mktemp("sets")
    orders = {"own": (0, 1, 2), "other": (2, 0, 1), "onebased": (1, 2, 3)}
    made = {
        name: shards(root / name, dict(zip(IDS, order, strict=True)))
        for name, order in orders.items()
    }
    return {**made, "part": shards(root / "part", {IDS[2]: 0, IDS[1]: 1})}


@pytest.fixture(scope="module")
def checkpoint(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with both heads, for the classes in WordNet's order."""
    path = tmp_path_factory.mktemp("model") / "checkpoint.pt"
    model = make_model(SMALL, 3, 32, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    content = checkpoint_content(model, SMALL, 32, open_dataset(sets["own"]).classes)
    save_checkpoint(path, content)
    return path


def evaluated(
    capsys: pytest.CaptureFixture[str], *line: object, code: int = 0
) -> tuple[dict[str, Any], str]:
    """The JSON of an evaluation, and what was said."""
    assert main(["evaluate", *map(str, line), "--engine", "pil", "--device", "cpu"]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]) if captured.out else {}, captured.err


def test_validation_in_another_order(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is told the same of both sets; by name too, where nothing else tells."""
    heads = {}
    for name in ("own", "other"):
        data = ("--train", str(sets["own"]), "--val", str(sets[name]))
        line = ["train", "demo-teacher", *data, "--out", str(tmp_path / name), *SHORT]
        assert main(line) == 0
        captured = capsys.readouterr()
        heads[name] = json.loads(captured.out)["heads"]
        note = f"{sets['other']}: its classes stand in another order than those of {sets['own']}; "
        assert (note + "WordNet ids match them" in captured.err) == (name == "other")
    assert heads["own"] == heads["other"]


def test_sets_that_only_names_tell_apart(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Parquet of the Hugging Face hub: ids are numbers there, and words in any order."""
    from fastdeit.pipelines.datasets import index as module

    def open_named(path: Path) -> Any:
        index = open_dataset(path)
        return replace(index, class_names=index.class_ids, class_ids=("0", "1", "2"))

    monkeypatch.setattr(module, "open_dataset", open_named)
    config = fill_recipe("demo-teacher", sets["own"])
    config = changed(config, data={"val": sets["other"], "batch_size": 6})
    (train_index, _), (val_index, _) = open_sets(config, World())
    by_key = [index.labels[np.argsort(index.keys)].tolist() for index in (train_index, val_index)]
    assert by_key[0] == by_key[1]
    assert val_index.class_names == train_index.class_names


def test_a_run_goes_on_with_its_own_order(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a set in another order it ends in the same weights; on other classes it does not begin."""
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    line = ["train", "demo-teacher", "--val", str(sets["own"]), *SHORT, "--resume", "auto"]
    assert main([*line, "--train", str(sets["own"]), "--out", str(whole)]) == 0
    first = next(whole.glob("checkpoint-step*.pt"))
    rest.mkdir()
    # As an older version left it, which did not know all of the options.
    old = load_checkpoint(first)
    del old["config"]["data"]["sampling"], old["config"]["optim"]["clip_grad"]
    save_checkpoint(rest / "checkpoint.pt", old)
    shutil.copy(whole / "metrics.jsonl", rest)
    capsys.readouterr()
    assert main([*line, "--train", str(sets["other"]), "--out", str(rest)]) == 0
    assert "its classes stand in another order than those of the run" in capsys.readouterr().err
    ends = [load_checkpoint(folder / "checkpoint.pt") for folder in (whole, rest)]
    assert ends[0]["class_ids"] == ends[1]["class_ids"] == list(IDS)
    assert all(torch.equal(value, ends[1]["model"][n]) for n, value in ends[0]["model"].items())
    shutil.copy(first, rest / "checkpoint.pt")
    more = ["--train", str(sets["part"]), "--val", str(sets["part"]), "--out", str(rest)]
    assert main([*line, *more]) == 2
    assert "a run goes on with the classes that it began with. Found: " in capsys.readouterr().err


def test_evaluation_in_another_order(
    sets: dict[str, Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores and decisions are those of the set in the model's order; ReaL's labels too."""
    (tmp_path / "real.json").write_text(json.dumps([[n % 3, 2] for n in range(12)]))
    line = (checkpoint, sets["own"], "--real", tmp_path / "real.json")
    own, said = evaluated(capsys, *line)
    assert "another order" not in said
    other, said = evaluated(capsys, checkpoint, sets["other"], *line[2:])
    assert f"note: {sets['other']}: its classes stand in another order" in said
    assert other["heads"] == own["heads"]
    index = open_dataset(sets["other"])
    found = read_real_labels(tmp_path / "real.json", index)(index.keys)
    assert found[:, index.class_ids.index(IDS[2])].all()
    rates = {}
    for name in ("own", "other"):
        line = ("analyse", "disagreement", checkpoint, "--data", sets[name], "--device", "cpu")
        assert main([*map(str, line), "--engine", "pil"]) == 0
        rates[name] = json.loads(capsys.readouterr().out)["rate"]
    assert rates["own"] == rates["other"]


def test_a_set_of_some_classes(
    sets: dict[str, Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model chooses among these alone, if asked; else it says how to ask."""
    _, said = evaluated(capsys, checkpoint, sets["part"], code=2)
    assert f"Found: n01440764 only in {checkpoint}. Pass --classes subset" in said
    facts, said = evaluated(capsys, checkpoint, sets["part"], "--classes", "subset")
    assert f"its classes are 2 of the 3 of {checkpoint}, the others are left out" in said
    assert facts["num_classes"] == 2
    # By hand: the rows of both heads, in the set's order.
    content = load_checkpoint(checkpoint)
    for name in ("head", "head_dist"):
        for kind in ("weight", "bias"):
            content["model"][f"{name}.{kind}"] = content["model"][f"{name}.{kind}"][[2, 1]]
    classes = open_dataset(sets["part"]).classes
    content |= classes.to_dict()
    save_checkpoint(tmp_path / "two.pt", content)
    assert evaluated(capsys, tmp_path / "two.pt", sets["part"])[0]["heads"] == facts["heads"]
    more = ("--classes", "subset", "--real", "real.json")
    _, said = evaluated(capsys, checkpoint, sets["part"], *more, code=2)
    assert "real counts all of ImageNet's classes" in said
    save_checkpoint(tmp_path / "two.pt", content | {"class_ids": [], "class_names": ["a", "b"]})
    _, said = evaluated(capsys, tmp_path / "two.pt", sets["part"], "--classes", "subset", code=2)
    assert "dataset must have only classes that the checkpoint names too. Found: " in said


def test_a_teacher_in_another_order(
    sets: dict[str, Path], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logits are put into the order of the training set."""
    config = changed(
        fill_recipe("demo", sets["own"]),
        data={"image_size": 32},
        distill={"teacher": checkpoint},
    )
    compute, images = choose_compute("cpu"), torch.randn(2, 3, 32, 32)
    taught = {}
    for name in ("own", "other"):
        index = open_dataset(sets[name])
        teacher = load_teacher(config, index.classes, compute)
        assert teacher is not None
        with torch.no_grad():
            taught[name] = teacher(images)[:, [index.class_ids.index(each) for each in IDS]]
        said = "its classes stand in another order than those of the training set"
        assert (said in capsys.readouterr().err) == (name == "other")
    assert torch.equal(taught["own"], taught["other"])
    assert taught["own"].std() > 0


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_store_in_another_order(
    kind: str,
    sets: dict[str, Path],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is read with the numbers of the training set, and goes on in its own order only."""
    line = ["teach", "demo-teacher", "--train", str(sets["own"]), "--out", str(tmp_path / "store")]
    asked = ("--teacher", str(checkpoint), "--distillation", kind, "--teacher-top-k", "2")
    options = [*SHORT[:-2], *(asked if kind == "soft" else asked[:4])]
    assert main([*line, *options]) == 0
    config = changed(
        fill_recipe("demo-teacher", sets["own"]),
        data={"image_size": 32, "batch_size": 6},
        optim={"epochs": 2, "warmup_epochs": 0},
        distill={"distillation": kind, "teacher_labels": tmp_path / "store"}
        | ({"teacher_top_k": 2} if kind == "soft" else {}),
    )
    said = []
    for name in ("own", "other"):
        index = open_dataset(sets[name])
        store = LabelStore(config, train_plan(config.data, index, config.run), index)
        assert bool(store.note) == (name == "other")
        numbers = torch.tensor([index.class_ids.index(each) for each in IDS])
        answers = store.read(0, 0)
        said.append(answers[:, numbers] if kind == "soft" else numbers.argsort()[answers])
    assert torch.equal(*said)
    line[3] = str(sets["other"])
    assert main([*line, *options]) == 2
    assert "a store keeps the order of its classes. Found: another in " in capsys.readouterr().err


def test_a_head_in_another_order(sets: dict[str, Path], checkpoint: Path) -> None:
    """Fine-tuning on the same classes keeps the head, each row for its class."""
    content, images = load_checkpoint(checkpoint), torch.randn(2, 3, 32, 32)
    index = open_dataset(sets["other"])
    model = make_model(SMALL, 3, 32, seed=9)
    became = initialise_from(model, content, index.classes)
    assert became.begun_anew == ()
    assert "its classes stand in another order" in str(became)
    numbers = [index.class_ids.index(each) for each in IDS]
    with torch.no_grad():
        expected = model_from_checkpoint(content)(images)
        assert torch.equal(model.eval()(images)[:, numbers], expected)
    renamed = Classes(("a", "b", "c"))
    assert "head.weight" in initialise_from(make_model(SMALL, 3, 32), content, renamed).begun_anew


def test_classes_without_an_image(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers that count from 1 are said wherever such a set is opened."""
    path, said = sets["onebased"], "class 0 has no image"
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.count(said) == 1
    assert main(["convert", str(path), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.count(f"{path}: {said}") == 1
    data = ("--train", str(path), "--val", str(path), "--out", str(tmp_path / "run"))
    assert main(["train", "demo-teacher", *data, *SHORT]) == 0
    assert capsys.readouterr().err.count(f"{path}: {said}") == 1
