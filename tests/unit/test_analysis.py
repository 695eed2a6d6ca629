"""Disagreement and tokens against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastdeit.batch import Batch
from fastdeit.config import ModelConfig
from fastdeit.machine.device import choose_compute
from fastdeit.models import make_model
from fastdeit.tools.evaluate.analyse.measures import decide, disagreement, token_cosines

CPU = choose_compute("cpu", "fp32")
TINY = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=12, depth=3, num_heads=3
)


def batches_of(pixels: list[int], keys: list[int], *sizes: int) -> Iterator[Batch]:
    """Images of one grey each, in batches of some sizes."""
    images = torch.tensor(pixels, dtype=torch.uint8)[:, None, None, None].expand(-1, 16, 16, 3)
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        yield Batch(
            images[part],
            torch.zeros(size, dtype=torch.int64),
            np.array(keys[part], np.uint64),
            np.zeros(size, np.int64),
            0,
            0,
        )
        first += size


def test_disagreement_by_hand() -> None:
    """Four images, three voters: the fraction of columns that differ."""
    decisions = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [5, 1, 0, 0]], np.int32)
    expected = [[0, 0.25, 0.75], [0.25, 0, 0.5], [0.75, 0.5, 0]]
    assert disagreement(decisions).tolist() == expected


class Brightness(nn.Module):
    """Guesses a class of how bright an image is, plus a shift."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        """(B, 8) logits."""
        level = ((images[:, 0, 0, 0] * 0.229 + 0.485) * 255).round().long()
        return nn.functional.one_hot(level + self.shift, 8).float()


def test_decisions_lie_where_their_keys_are() -> None:
    """Batches come in any order; an image that did not come has no decision."""
    keys = np.array([70, 10, 40, 90], np.uint64)
    batches = batches_of([3, 1, 2], [40, 70, 10], 2, 0, 1)
    found = decide([Brightness(0), Brightness(2)], batches, CPU, keys)
    assert found.tolist() == [[1, 2, 3, -1], [3, 4, 5, -1]]


def test_each_head_decides() -> None:
    """Class, distillation and joint head: the joint one adds up probabilities, not logits."""
    logits = {"head": [0.0, -1.0, -20.0], "head_dist": [-5.0, 1.0, 1.2]}
    model = make_model(TINY, 3, 16).eval()
    with torch.no_grad():
        for head, values in logits.items():
            layer = model.get_submodule(head)
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(values))
    found = decide([model], batches_of([7], [1], 1), CPU, np.array([1], np.uint64))
    by_class, by_dist = (np.exp(x) / np.exp(x).sum() for x in logits.values())
    assert (by_class + by_dist).argmax() == 0  # the sum of the logits would say 1
    assert found[:, 0].tolist() == [0, 2, 0]


class Turn(nn.Module):
    """A block that turns the distillation token by an angle for each image, in their order."""

    def __init__(self, degrees: list[float]) -> None:
        super().__init__()
        self.left = list(degrees)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D), the class token along the first axis."""
        tokens = tokens.clone()
        for image in tokens:
            angle = math.radians(self.left.pop(0))
            image[:2] = 0
            image[0, 0] = 2
            image[1, 0], image[1, 1] = 3 * math.cos(angle), 3 * math.sin(angle)
        return tokens


def test_cosines_of_identity_blocks_and_of_turned_tokens() -> None:
    """Blocks that add nothing keep the tokens' cosine; the mean is over images, not batches."""
    model = make_model(TINY, 3, 16).eval()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
        model.pos_embed.zero_()
        for token, (x, y) in ((model.cls_token, (1.0, 0.0)), (model.dist_token, (0.6, 0.8))):
            token.zero_()
            token[0, 0, 0], token[0, 0, 1] = x, y
        model.pos_embed[0, 1, 1] = -1.6
    found = token_cosines(model, batches_of([1, 2, 3, 4], [0, 1, 2, 3], 3, 1), CPU)
    assert found.names == ("input", "block 1", "block 2", "block 3", "norm")
    assert found.num_images == 4
    assert found.learned == pytest.approx(0.6)
    # With its position embedding the distillation token is (0.6, -0.8): the same angle.
    assert found.means[:4] == pytest.approx([0.6] * 4)
    assert found.last == found.means[3]
    one, other = (np.array([x, y] + [0.0] * 10) for x, y in ((1.0, 0.0), (0.6, -0.8)))
    one, other = one - one.mean(), other - other.mean()
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found.means[4] == pytest.approx(cosine, abs=1e-3)  # LayerNorm's epsilon

    model.blocks[1] = Turn([0, 60, 90, 180])
    found = token_cosines(model, batches_of([1, 2, 3, 4], [0, 1, 2, 3], 3, 0, 1), CPU)
    expected = np.array([1, 0.5, 0, -1])
    assert found.means[1] == pytest.approx(0.6)
    assert found.means[2] == found.means[3] == pytest.approx(expected.mean(), abs=1e-6)
    assert found.deviations[2] == pytest.approx(expected.std(), abs=1e-6)
    assert found.deviations[1] == pytest.approx(0, abs=1e-3)
    assert not model.norm._forward_hooks  # nothing stays on the model
