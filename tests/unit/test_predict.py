"""`fastdeit predict`: what evaluate decides, for files; and imported models in other commands."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_checkpoints import make_deit, save_official
from PIL import Image

from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import load_checkpoint, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.machine.device import choose_compute
from fastdeit.models import forward_heads, make_model
from fastdeit.models.initialise import initialise_from
from fastdeit.recipes import fill_recipe
from fastdeit.tools.checkpoints.import_checkpoint import import_checkpoint
from fastdeit.tools.cli import main
from fastdeit.training.teacher import load_teacher

pytestmark = pytest.mark.slow  # as a whole

CLASSES = 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported model with two heads and 20 numbered classes."""
    folder = tmp_path_factory.mktemp("imported")
    source = save_official(make_deit(num_classes=CLASSES), folder / "official.pth")
    assert import_checkpoint(source, folder / "ours.pt", num_heads=3) == 0
    return folder / "ours.pt"


def predicted(capsys: pytest.CaptureFixture[str], *line: object, code: int = 0) -> list[Any]:
    """The rows of JSON that predict prints."""
    capsys.readouterr()
    assert main(["predict", *map(str, line), "--format", "json"]) == code
    return [json.loads(row) for row in capsys.readouterr().out.splitlines()]


def test_it_decides_as_evaluate_does(
    checkpoint: Path, sample_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same share of right guesses, and the same probability of the right class."""
    val = sample_source / "val"
    assert main(["evaluate", str(checkpoint), str(val), "--engine", "pil", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert (
        f"its {CLASSES} classes are taken for those of {checkpoint} in their order" in captured.err
    )
    joint = json.loads(captured.out.splitlines()[-1])["heads"]["joint"]
    rows = predicted(capsys, checkpoint, val, "--top-k", CLASSES, "--batch-size", 7)
    classes = sorted(path.name for path in val.iterdir() if path.is_dir())
    right, loss = 0, 0.0
    for row in rows:
        label = classes.index(Path(row["file"]).relative_to(val).parts[0])
        right += row["guesses"][0]["number"] == label
        probs = {guess["number"]: guess["probability"] for guess in row["guesses"]}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
        loss -= float(np.log(probs[label]))
    assert len(rows) == 40
    assert 100 * right / len(rows) == pytest.approx(joint["top1_pct"])
    assert loss / len(rows) == pytest.approx(joint["loss"], abs=1e-5)


def test_formats(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, CSV and JSON say the same; names with commas stay whole."""
    names = [f"kind, {number}" for number in range(CLASSES)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    named = tmp_path / "named.pt"
    import_checkpoint(
        checkpoint.with_name("official.pth"),
        named,
        num_heads=3,
        classes=str(tmp_path / "names.txt"),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = tmp_path / "a,b.png"
    Image.fromarray(pixels).save(picture)
    (row,) = predicted(capsys, named, picture, "--top-k", 3)
    assert row["file"] == str(picture)
    assert [guess["class"] for guess in row["guesses"]] == [
        names[guess["number"]] for guess in row["guesses"]
    ]
    assert main(["predict", str(named), str(picture), "--top-k", "3", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(int(r["number"]), r["class"]) for r in table] == [
        (guess["number"], guess["class"]) for guess in row["guesses"]
    ]
    assert [r["rank"] for r in table] == ["1", "2", "3"]
    assert {r["file"] for r in table} == {str(picture)}
    assert main(["predict", str(named), str(picture), "--top-k", "1"]) == 0
    text = capsys.readouterr().out
    first = row["guesses"][0]
    assert text == f"{picture}\n  {100 * first['probability']:6.2f}%  {first['class']}\n"


def test_files_that_do_not_decode(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one line and the exit code is 1; the others come out, whatever is beside them."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    for name in ("a", "cut", "z"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    assert main(["predict", str(checkpoint), str(tmp_path), "--format", "json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(row) for row in captured.out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "z.jpg"]
    assert rows[0]["guesses"] == rows[1]["guesses"]
    *lines, last = captured.err.splitlines()
    assert len(lines) == 2
    for line, name in zip(sorted(lines), ("b.png", "cut.jpg"), strict=True):
        assert line.startswith(f"{tmp_path / name}: does not decode (")
    assert last == "2 of 4 files did not decode"
    assert main(["predict", str(checkpoint), str(tmp_path / "b.png"), "--format", "csv"]) == 1
    assert capsys.readouterr().out == "file,rank,number,class,probability\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{ours} {tmp}/none.jpg", "every image must be there. Found: nothing at"),
        ("{ours} {tmp}", "a folder must hold an image (.avif, .bmp, "),
        ("{ours} {tmp} --top-k 0", "top_k must be at least 1. Found: 0."),
        ("{ours} {tmp} --eval-crop-ratio 2", "eval_crop_ratio must be above 0 and at most 1."),
        ("{tmp}/none.pt {tmp}", "checkpoint is not a file."),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is one line with exit code 2."""
    assert main(["predict", *line.format(ours=checkpoint, tmp=tmp_path).split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_numbered_classes_are_taken_in_order(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An imported teacher and starting point keep their head, which is said; others are refused."""
    known = Classes(tuple(f"class {number}" for number in range(CLASSES)))
    content = load_checkpoint(checkpoint)
    config = ModelConfig(**content["model_config"])
    fresh = make_model(config, CLASSES, 32, seed=9)
    became = initialise_from(fresh, content, known)
    assert became.begun_anew == ()
    assert "its 20 classes are taken for those of the training set in their order" in str(became)
    assert torch.equal(fresh.head.weight, content["model"]["head.weight"])  # type: ignore[union-attr]
    fewer = initialise_from(make_model(config, 5, 32), content, Classes(known.names[:5]))
    assert "head.weight" in fewer.begun_anew
    assert not fewer.note

    run = fill_recipe("demo", tmp_path)
    distill = replace(run.distill, teacher=checkpoint)
    run = replace(run, distill=distill, data=replace(run.data, image_size=32))
    teacher = load_teacher(run, known, choose_compute("cpu"))
    assert teacher is not None
    assert (
        "its 20 classes are taken for those of the training set in their order"
        in capsys.readouterr().err
    )


def test_a_changed_epsilon_and_registers_act() -> None:
    """Both options of a model that imports need change what it computes, or are refused."""
    small = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
    images = torch.randn(2, 3, 32, 32)
    name = "deit_tiny_patch16_224"
    plain = make_model(ModelConfig(model=name, **small), 5, 32).eval()  # type: ignore[arg-type]
    changed = make_model(ModelConfig(model=name, norm_eps=0.1, **small), 5, 32).eval()  # type: ignore[arg-type]
    assert not torch.equal(forward_heads(plain, images)["class"], changed(images).softmax(-1))
    tokens = make_model(ModelConfig(model=name, reg_tokens=2, **small), 5, 32)  # type: ignore[arg-type]
    assert tokens.reg_token.shape == (1, 2, 48)  # type: ignore[union-attr]
    with pytest.raises(Exception, match="norm_eps cannot be chosen for vgg11"):
        make_model(ModelConfig(model="vgg11", norm_eps=1e-3), 5, 32)
    with pytest.raises(Exception, match="reg_tokens cannot be chosen for deit_tiny_distilled"):
        ModelConfig(model="deit_tiny_distilled_patch16_224", reg_tokens=1)


def test_averaged_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an average, --weights ema is refused; with one, it is what decides."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "red").save(picture)
    assert main(["predict", str(checkpoint), str(picture), "--weights", "ema"]) == 2
    assert "must hold averaged weights" in capsys.readouterr().err
    content = load_checkpoint(checkpoint)
    averaged = {name: value.clone() for name, value in content["model"].items()}
    for head in ("head", "head_dist"):
        averaged[f"{head}.bias"][13] += 50
    save_checkpoint(tmp_path / "both.pt", {**content, "ema": averaged})
    for weights in ("raw", "ema"):
        (row,) = predicted(capsys, tmp_path / "both.pt", picture, "--weights", weights)
        assert (row["guesses"][0]["number"] == 13) is (weights == "ema")
        assert len(row["guesses"]) == 5
