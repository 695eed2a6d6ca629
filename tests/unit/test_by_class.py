"""An evaluation class by class: the mean, the worst, who is taken for whom."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.checkpoints.classes import Classes, Located
from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.machine.device import choose_compute
from fastdeit.models import make_model
from fastdeit.tools.cli import main
from fastdeit.tools.evaluate.by_class import (
    CORNER,
    check_confusion,
    check_drawable,
    class_facts,
    explain_classes,
    most_confused,
    titles_of,
    write_confusion,
)
from fastdeit.training.evaluate import ClassCounts, Evaluation, evaluate_all

NAMES = ("cat", "dog", "nobody", "owl, bird of prey")
SMALL = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=16, embed_dim=12, depth=1, num_heads=1
)
CLASSES_OF_8 = (0, 0, 0, 0, 0, 1, 1, 3)
GUESSES = (0, 0, 0, 1, 3, 1, 0, 3)


class Guess(nn.Module):
    """Guesses what the first pixel of an image says."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 4) logits."""
        number = ((images[:, 0, 0, 0] * 0.229 + 0.485) * 255).round().long()
        return nn.functional.one_hot(number, 4).float() * 9


def counted(**options: Any) -> Evaluation:
    """Eight images in batches of 5 and 3, of which five are guessed."""
    pixels = torch.tensor(GUESSES, dtype=torch.uint8)[:, None, None, None].expand(8, 2, 2, 3)
    labels, keys = torch.tensor(CLASSES_OF_8), np.arange(8, dtype=np.uint64)
    batches = [
        Batch(pixels[own], labels[own], keys[own], np.zeros(8, np.int64)[own], 0, 0)
        for own in (slice(5), slice(5, 8))
    ]
    return evaluate_all([Guess()], batches, choose_compute("cpu", "fp32"), **options)[0]


def counts_of_8() -> ClassCounts:
    """The same by class."""
    counts = counted(num_classes=4, with_confusion=True).classes
    assert counts is not None
    return counts


def test_counts_by_class() -> None:
    """The mean leaves out the class without an image; rows are true, columns predicted."""
    result = counted(num_classes=4, with_confusion=True)
    score, counts = result.heads["class"], result.classes
    assert counts is not None and counts.confusion is not None
    assert counts.total.tolist() == [5, 2, 0, 1]
    assert counts.correct["class"].tolist() == [3, 1, 0, 1]
    assert counts.confusion.tolist() == [[3, 1, 0, 1], [1, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]
    assert score.top1_pct == 62.5
    assert score.macro_top1_pct == pytest.approx(100 * (3 / 5 + 1 / 2 + 1) / 3)
    assert "macro_top1_pct" in result.to_dict()["heads"]["class"]  # type: ignore[index]
    assert set(result.to_dict()) == {"num_images", "heads"}
    plain = counted()
    assert plain.classes is None and "macro" not in str(plain.to_dict())
    without = counted(num_classes=4).classes
    assert without is not None and without.confusion is None


def test_what_is_said_and_kept() -> None:
    """The classes that were left out are said, the worst come first, confusions by their number."""
    counts = counts_of_8()
    text = explain_classes(counts, NAMES, "raw")
    assert "the mean over the 3 of 4 classes that have an image: 70.00%" in text
    rows = [line.split()[0] for line in text.splitlines()[2:]]
    assert rows == ["dog", "cat", "owl,"]
    assert class_facts(counts, NAMES, "raw") == {
        "head": "class",
        "weights": "raw",
        "names": [*NAMES],
        "total": [5, 2, 0, 1],
        "correct": [3, 1, 0, 1],
        "confused": [[0, 1, 1], [0, 3, 1], [1, 0, 1]],
    }
    assert len(most_confused(np.ones((9, 9), dtype=np.int64))) == 20


def test_the_names_of_the_model_stand_for_numbers() -> None:
    """A set that only numbers its classes is told of in the model's words, each class in others."""
    located = Located((1, 0, 2), "number", 3)
    model = Classes(("crane", "tench", "crane"), ("n02012849", "n01440764", "n03126707"))
    titles = titles_of(Classes(("0", "1", "2")), model, located)
    assert titles == ["tench", "crane (n02012849)", "crane (n03126707)"]
    assert titles_of(Classes(("a", "a", "b")), model, located) == ["a (0)", "a (1)", "b"]


def test_a_matrix_as_a_table(tmp_path: Path) -> None:
    """Names with commas survive, and the file may be written again."""
    path, confusion = tmp_path / "new" / "matrix.csv", counts_of_8().confusion
    assert confusion is not None
    for _ in range(2):
        check_confusion(path)
        write_confusion(path, confusion, NAMES)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [CORNER, *NAMES]
    assert [row[0] for row in rows] == [*NAMES]
    assert [[int(cell) for cell in row[1:]] for row in rows] == confusion.tolist()


@pytest.mark.parametrize("num", [4, 50])
def test_a_matrix_as_a_picture(tmp_path: Path, num: int) -> None:
    """It is large enough for its names, and may be drawn again; another picture is kept."""
    path = tmp_path / "matrix.png"
    names = [f"a class with the number {number}" for number in range(num)]
    write_confusion(path, np.eye(num, dtype=np.int64), names)
    check_confusion(path)
    with Image.open(path) as image:
        assert min(image.size) > 14 * num
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(UserError, match=r"--confusion must be a new file or an earlier confusion"):
        check_confusion(path)


def test_files_that_are_no_matrix(tmp_path: Path) -> None:
    """Other endings, more classes than a picture can show, and files of others are refused."""
    with pytest.raises(UserError, match=r"confusion must end in \.csv or \.png. Found: a\.txt"):
        check_confusion(Path("a.txt"))
    check_drawable(Path("a.png"), 200)
    check_drawable(Path("a.csv"), 1000)
    with pytest.raises(UserError, match=r"up to 200 classes. Found: 1,000. Pass --confusion a.csv"):
        check_drawable(Path("a.png"), 1000)
    other = tmp_path / "mine.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="a file that `fastdeit evaluate` did not write"):
        check_confusion(other)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the mean of each head, the file the classes too; both kinds of weights."""
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{number}.jpg")
    model, averaged = (make_model(SMALL, 2, 32, seed) for seed in (0, 1))
    content = checkpoint_content(
        model, SMALL, 32, Classes(("cat", "dog")), ema=averaged.state_dict()
    )
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    line = ["evaluate", str(tmp_path / "checkpoint.pt"), str(tmp_path / "val"), "--engine", "pil"]
    line += ["--device", "cpu", "--confusion", str(tmp_path / "c.csv")]
    assert main([*line, "--weights", "both"]) == 0
    out, err = capsys.readouterr()
    said, kept = json.loads(out), json.loads((tmp_path / "evaluation.json").read_text())
    by_class = kept.pop("by_class")
    assert said == kept
    assert (by_class["head"], by_class["weights"]) == ("joint", "raw")
    assert (by_class["names"], by_class["total"]) == (["cat", "dog"], [3, 2])
    for part in ("heads", "ema_heads"):
        assert all("macro_top1_pct" in head for head in said[part].values())
    cat, dog = by_class["correct"]
    assert said["heads"]["joint"]["macro_top1_pct"] == pytest.approx(50 * (cat / 3 + dog / 2))
    assert "top-1 of the joint head (raw) as the mean over 2 classes" in err
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert int(rows[1].split(",")[1]) == cat
    (tmp_path / "c.csv").write_text("mine")
    assert main(line) == 2
    assert "--confusion must be a new file" in capsys.readouterr().err
