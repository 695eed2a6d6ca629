"""ImageNet-ReaL and ImageNet-V2 are accepted where a model is evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.machine.device import choose_compute
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.real_labels import read_real_labels
from fastdeit.training.evaluate import evaluate


class Guess(nn.Module):
    """Guesses the class that the first pixel of an image says."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 20) logits."""
        order = images[:, 0, 0, 0].argsort().argsort()
        return nn.functional.one_hot(order, 20).float() * 9


def test_first_guess_among_several_labels(containers: dict[str, Path], tmp_path: Path) -> None:
    """Images count if they have any right label, and are right if the guess is one of them."""
    index = open_dataset(containers["val"])
    rows: list[list[int]] = [[] for _ in range(40)]
    assert index.names is not None
    expected = {}
    for sample, name in enumerate(index.names):
        number = int(name.rpartition("_")[2].partition(".")[0])
        rows[number - 1] = [[], [sample % 20], [(sample + 1) % 20], [3, sample % 20]][sample % 4]
        expected[sample] = rows[number - 1]
    (tmp_path / "real.json").write_text(json.dumps(rows))
    right = read_real_labels(tmp_path / "real.json", index)
    pixels = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 2, 2, 3)
    batches = [
        Batch(
            pixels,
            torch.from_numpy(index.labels[first : first + 20].copy()),
            index.keys[first : first + 20],
            np.zeros(20, np.int64),
            0,
            0,
        )
        for first in (0, 20)
    ]
    result = evaluate(Guess(), batches, choose_compute("cpu", "fp32"), right)
    counted = [sample for sample, labels in expected.items() if labels]
    hits = [sample for sample in counted if sample % 20 in expected[sample]]
    assert result.heads["class"].real_top1_pct == pytest.approx(100 * len(hits) / len(counted))
    assert "real_top1_pct" in result.to_dict()["heads"]["class"]  # type: ignore[index]
    assert (
        evaluate(Guess(), batches, choose_compute("cpu", "fp32")).heads["class"].real_top1_pct
        is None
    )


def test_what_is_no_real_json(containers: dict[str, Path], tmp_path: Path) -> None:
    """Another file, labels out of range and images without a number are one clear error each."""
    index, file = open_dataset(containers["val"]), tmp_path / "real.json"
    for text, message in (
        ("no json", "real must be a JSON file"),
        ('{"a": 1}', "real must be a list with a list of class numbers"),
        (json.dumps([[20]] * 40), r"labels must be numbers below 20\. Found: 20"),
        (json.dumps([[1]] * 5), r"images must have names as ILSVRC2012_val_00000001.JPEG, up to 5"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_real_labels(file, index)
    file.write_text(json.dumps([[1]] * 40))
    with pytest.raises(UserError, match="images must have names as"):
        read_real_labels(file, replace(index, names=Names.of(map(str, range(40)))))


def test_labels_of_no_image(containers: dict[str, Path], tmp_path: Path) -> None:
    """Nothing could be counted."""
    (tmp_path / "real.json").write_text(json.dumps([[]] * 40))
    with pytest.raises(UserError, match="real must have a right label for some image"):
        read_real_labels(tmp_path / "real.json", open_dataset(containers["val"]))
