"""`fastdeit evaluate` in several processes gives what it gives in one."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import run_processes
from PIL import Image

from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.models import make_model
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.cli import main

CLASSES = ("cat", "dog")
LOSS_REL = 64 * float(np.finfo(np.float32).eps)
"""How far two losses of the same images may lie apart. A forward pass rounds to float32, and in
another way for another batch, number of threads or processor: some dozens of layers and sums, each
half a unit in the last place."""
DISTILLED = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small distilled model with random weights."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    model = make_model(DISTILLED, len(CLASSES), 32)
    save_checkpoint(path, checkpoint_content(model, DISTILLED, 32, Classes(CLASSES)))
    return path


def make_folder(root: Path, *counts: int) -> Path:
    """An ImageFolder with so many images of each class."""
    generator = np.random.default_rng(0)
    for name, count in zip(CLASSES, counts, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg", quality=60)
    return root


def evaluations(
    processes: int,
    checkpoint: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *options: str,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The result of one process, that of several, and what these wrote to stderr."""
    line = ["evaluate", str(checkpoint), str(folder), "--engine", "pil", "--threads", "1", *options]
    assert main(line) == 0
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    file = checkpoint.with_name("evaluation.json")
    kept = json.loads(file.read_text())
    by_class = kept.pop("by_class")
    assert kept == one
    file.unlink()
    code, out, err = run_processes(processes, *line, folder=folder.parent)
    assert code == 0, err
    (printed,) = out.splitlines()  # the first process alone tells
    several = json.loads(printed)
    kept = json.loads(file.read_text())
    assert sum(by_class["total"]) == one["num_images"]
    assert kept.pop("by_class")["total"] == by_class["total"]
    assert kept == several
    return one, several, err


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Counts are equal, losses up to the rounding of float32."""
    assert {**one, "heads": None} == {**two, "heads": None}
    assert list(one["heads"]) == list(two["heads"]) == ["class", "dist", "joint"]
    for name, head in one["heads"].items():
        other = two["heads"][name]
        for count in ("top1_pct", "macro_top1_pct", "top5_pct"):
            assert head[count] == other[count], (name, count)
        assert head["loss"] == pytest.approx(other["loss"], rel=LOSS_REL), name


@pytest.mark.slow
def test_two_processes_count_each_image_once(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """13 images in steps of 2 x 1: one process has nothing in the last step."""
    folder = make_folder(tmp_path / "val", 7, 6)
    matrix = tmp_path / "matrix.csv"
    options = ("--batch-size", "1", "--confusion", str(matrix))
    one, two, err = evaluations(2, checkpoint, folder, capsys, *options)
    rows = [line.split(",")[1:] for line in matrix.read_text().splitlines()[1:]]
    assert [sum(map(int, row)) for row in rows] == [7, 6]
    assert one["num_images"] == 13
    assert_equal(one, two)
    assert err.count("class  raw weights") == 1


@pytest.mark.slow
def test_1003_images_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each image counts once, at another resolution and for both kinds of weights too."""
    folder = make_folder(tmp_path / "val", 502, 501)
    config = replace(DISTILLED, embed_dim=12, depth=1)
    model, averaged = (make_model(config, len(CLASSES), 16, seed) for seed in (0, 1))
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    content = checkpoint_content(model, config, 16, Classes(CLASSES), ema=averaged.state_dict())
    save_checkpoint(checkpoint, content)
    options = ("--batch-size", "100", "--weights", "both", "--image-size", "24")
    one, two, _ = evaluations(2, checkpoint, folder, capsys, *options)
    assert one["num_images"] == two["num_images"] == 1003
    assert one["image_size"] == 24
    assert one["heads"] != one["ema_heads"]
    # Matrix products of other batches round in other ways, which a guess at the edge may show.
    for part in ("heads", "ema_heads"):
        for name, head in one[part].items():
            other = two[part][name]
            assert head["top5_pct"] == other["top5_pct"] == 100
            assert head["top1_pct"] == pytest.approx(other["top1_pct"], abs=0.1), (part, name)
            assert head["loss"] == pytest.approx(other["loss"], rel=LOSS_REL), (part, name)
            assert 1003 * head["top1_pct"] / 100 == pytest.approx(
                round(10.03 * head["top1_pct"]), abs=1e-6
            )


@pytest.mark.slow
def test_fewer_images_than_processes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process has nothing to do, and both end."""
    folder = make_folder(tmp_path / "val", 1, 1)
    one, two, _ = evaluations(3, checkpoint, folder, capsys)
    assert one["num_images"] == 2
    assert_equal(one, two)


@pytest.mark.slow
def test_replaced_images_are_counted_over_both(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images that do not decode count once, whoever met them; steps of 2 x 4, the last of 3 + 2."""
    folder = make_folder(tmp_path / "val", 7, 6)
    # Two neighbours in the order of keys, one in each process: the first one meets both.
    order = np.argsort(open_dataset(folder).keys).tolist()
    bad = next(pair for pair in pairwise(order) if max(pair) < 8 and (pair[0] < 4) != (pair[1] < 4))
    paths = sorted(folder.rglob("*.jpg"))
    for path in (paths[bad[0]], paths[bad[1]], paths[-1]):
        path.write_bytes(path.read_bytes()[:700])
    one, two, _ = evaluations(
        2, checkpoint, folder, capsys, "--batch-size", "4", "--bad-images", "skip"
    )
    assert one["images_replaced"] == 3
    assert_equal(one, two)
