"""Fine-tuning begins with a checkpoint's weights: what is taken over, resized, begun anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import checkpoint_content, load_checkpoint, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.models import make_model
from fastdeit.models.initialise import initialise_from, resize_positions

pytestmark = pytest.mark.slow  # as a whole

CLASSES = Classes(("cat", "dog", "eel"))
PLAIN, DISTILLED = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"


def config_of(name: str, **options: Any) -> ModelConfig:
    """A small model; transformers get two blocks."""
    if name.startswith("deit"):
        options = {"depth": 2, "embed_dim": 24, "num_heads": 3, **options}
    return ModelConfig(model=name, **options)


def made(name: str, side: int = 64, seed: int = 0, classes: int = 3, **options: Any) -> nn.Module:
    """A model of some seed."""
    return make_model(config_of(name, **options), classes, side, seed)


def checkpoint(path: Path, name: str, side: int = 64, seed: int = 1, **extra: Any) -> Any:
    """What is read of a saved model of another seed."""
    model = made(name, side, seed)
    save_checkpoint(path, checkpoint_content(model, config_of(name), side, CLASSES, **extra))
    return load_checkpoint(path)


@pytest.mark.parametrize("name", [PLAIN, DISTILLED, "deit3_small_patch16_224", "test_resnet"])
def test_the_same_model_is_taken_over_whole(name: str, tmp_path: Path) -> None:
    """At the same resolution with the same classes every bit comes from the checkpoint."""
    content = checkpoint(tmp_path / "a.pt", name)
    model = made(name)
    report = initialise_from(model, content, CLASSES)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in content["model"].items())
    assert (report.num_loaded, report.begun_anew, report.grids) == (len(state), (), None)


@pytest.mark.parametrize(
    ("name", "slots"), [(PLAIN, 1), (DISTILLED, 2), ("deit3_small_patch16_224", 0)]
)
def test_against_timm_at_another_resolution(name: str, slots: int, tmp_path: Path) -> None:
    """Patches are resampled as timm does, times one number; the tokens' places stay bit for bit."""
    content = checkpoint(tmp_path / "a.pt", name, 64)
    model: Any = made(name, 96)
    report = initialise_from(model, content, CLASSES)
    old, new = content["model"]["pos_embed"], model.pos_embed.detach()
    expected = resample_abs_pos_embed(
        old, [6, 6], [4, 4], num_prefix_tokens=slots, interpolation="bicubic", antialias=False
    )
    assert report.grids == ((4, 4), (6, 6))
    assert torch.equal(new[:, :slots], old[:, :slots])
    assert torch.allclose(new[:, slots:], expected[:, slots:] * report.norm_factor, atol=1e-7)
    assert new[:, slots:].norm(dim=2).mean().item() == pytest.approx(
        old[:, slots:].norm(dim=2).mean().item(), rel=1e-5
    )
    others = {key: value for key, value in content["model"].items() if key != "pos_embed"}
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in others.items())
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


def waves(side: int, width: int, noise: float) -> Tensor:
    """Smooth position embeddings, as training makes them, with noise in parts of their size."""
    generator = torch.Generator().manual_seed(0)
    places = (torch.arange(side) + 0.5) / side
    grid = torch.zeros(side, side, width)
    for down in range(5):
        for across in range(5):
            wave = torch.cos(torch.pi * down * places)[:, None]
            wave = wave * torch.cos(torch.pi * across * places)[None, :]
            weights = torch.randn(width, generator=generator) / (1 + down + across)
            grid += wave[..., None] * weights
    grid = grid / grid.std() + noise * torch.randn(side, side, width, generator=generator)
    return grid.reshape(1, side * side, width)


@pytest.mark.parametrize("noise", [0.0, 0.3, 100.0])
def test_norms_from_224_to_384_and_back(noise: float) -> None:
    """Mean norms stay within 1%, of noise too, whose norm bicubic resampling changes by 14%."""
    first = waves(14, 96, noise)
    larger, grow = resize_positions(first, (14, 14), (24, 24))
    back, shrink = resize_positions(larger, (24, 24), (14, 14))
    norms = [value.norm(dim=2).mean().item() for value in (first, larger, back)]
    assert norms == pytest.approx([norms[0]] * 3, rel=0.01)
    assert torch.cosine_similarity(first, back, dim=2).min() > 0.95
    if noise < 1:
        assert (grow, shrink) == pytest.approx((1, 1), abs=0.01)
    else:
        assert grow > 1.1


@pytest.mark.parametrize("name", [PLAIN, DISTILLED, "test_resnet"])
@pytest.mark.parametrize("classes", [("cat", "dog", "fly"), ("cat", "dog")])
def test_heads_for_other_classes_begin_anew(
    name: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    """Also as many of them with other names; everything else is taken over."""
    content = checkpoint(tmp_path / "a.pt", name)
    model, fresh = (made(name, classes=len(classes)) for _ in range(2))
    report = initialise_from(model, content, Classes(classes))
    before, after = fresh.state_dict(), model.state_dict()
    heads = {key for key in after if key.startswith(("head", "fc."))}
    assert len(heads) == (4 if name == DISTILLED else 2)
    assert set(report.begun_anew) == heads
    for key, value in after.items():
        assert torch.equal(value, before[key] if key in heads else content["model"][key]), key
    assert "begun anew: " in str(report)
    assert all(key in str(report) for key in heads)


@pytest.mark.parametrize("side", [64, 96])
def test_a_plain_model_becomes_a_distilled_one(side: int, tmp_path: Path) -> None:
    """The token, its place and its head are fresh; the others come from the checkpoint."""
    content = checkpoint(tmp_path / "a.pt", PLAIN)
    model, fresh = (made(DISTILLED, side) for _ in range(2))
    report = initialise_from(model, content, CLASSES)
    before, after = fresh.state_dict(), model.state_dict()
    assert set(report.begun_anew) == {
        "dist_token",
        "head_dist.weight",
        "head_dist.bias",
        "pos_embed of dist_token",
    }
    for key in ("dist_token", "head_dist.weight"):
        assert torch.equal(after[key], before[key])
    assert torch.equal(after["pos_embed"][:, 1], before["pos_embed"][:, 1])
    assert torch.equal(after["pos_embed"][:, 0], content["model"]["pos_embed"][:, 0])
    if side == 64:
        assert torch.equal(after["pos_embed"][:, 2:], content["model"]["pos_embed"][:, 1:])
    assert torch.equal(after["head.weight"], content["model"]["head.weight"])


def test_the_average_can_be_taken(tmp_path: Path) -> None:
    """Averaged weights are taken where they are asked for, and missed where there are none."""
    average = made(PLAIN, seed=5).state_dict()
    content = checkpoint(tmp_path / "a.pt", PLAIN, ema=average)
    model = made(PLAIN)
    initialise_from(model, content, CLASSES, "ema")
    assert torch.equal(model.state_dict()["cls_token"], average["cls_token"])
    with pytest.raises(UserError, match="must hold averaged weights"):
        initialise_from(model, {**content, "ema": None}, CLASSES, "ema")


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        (DISTILLED, PLAIN, r"dist_token too many; head_dist.weight too many; head_dist.bias"),
        ("test_resnet", PLAIN, r"no cls_token; no pos_embed; .* and \d+ more, in .* test_resnet\."),
        ("deit3_small_patch16_224", PLAIN, r"ls1.gamma too many"),
    ],
)
def test_another_architecture_is_refused(
    source: str, target: str, text: str, tmp_path: Path
) -> None:
    """What is missing or too many is one line, and the model stays as it was."""
    content = checkpoint(tmp_path / "a.pt", source)
    model, fresh = made(target), made(target).state_dict()
    with pytest.raises(UserError, match=f"init_from must hold weights .*{text}") as caught:
        initialise_from(model, content, CLASSES)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(fresh[key], value) for key, value in model.state_dict().items())


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    """Another depth, width or patch is no reason to take a part of the weights."""
    content = checkpoint(tmp_path / "a.pt", PLAIN)
    for options, text in (
        ({"depth": 3}, r"no blocks\.2\.norm1\.weight"),
        ({"depth": 1}, r"blocks\.1\.norm1\.weight too many"),
        ({"embed_dim": 48}, r"cls_token \(1, 1, 24\) instead of \(1, 1, 48\)"),
        ({"patch_size": 8}, r"patch_embed\.proj\.weight \(24, 3, 16, 16\) instead of"),
    ):
        with pytest.raises(UserError, match=text):
            initialise_from(made(PLAIN, **options), content, CLASSES)


def test_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    """It shows in no shape; timm's own number stands for one that is not given."""
    name = "deit_tiny_patch16_224"
    content = checkpoint(tmp_path / "a.pt", name)
    with pytest.raises(UserError, match=r"3 attention heads instead of 4.*Pass --num-heads 3\."):
        initialise_from(made(name, num_heads=4), content, CLASSES)
    content["model_config"]["num_heads"] = None  # timm's own 3
    initialise_from(made(name), content, CLASSES)
    with pytest.raises(UserError, match="3 attention heads instead of 6"):
        initialise_from(made(name, num_heads=6), content, CLASSES)
