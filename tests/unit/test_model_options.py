"""Options of a model act or are refused, and fresh weights are distributed as DeiT's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.config import ModelConfig
from fastdeit.models import make_model

pytestmark = pytest.mark.slow  # as a whole


def build(model: str, side: int = 32, **options: Any) -> Any:
    """A model of 5 classes; transformers are small."""
    if model.startswith(("deit", "vit")):
        options = {"depth": 2, "embed_dim": 24, "num_heads": 3, **options}
    return make_model(ModelConfig(model=model, **options), 5, side)


def test_dropout_of_a_transformer() -> None:
    """It comes after the position embedding, the attention's projection and both MLP layers."""
    model = build("deit_tiny_patch16_224", dropout=0.1)
    rates = {
        name: layer.p for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)
    }
    inside = {
        f"blocks.{b}.{n}" for b in (0, 1) for n in ("attn.proj_drop", "mlp.drop1", "mlp.drop2")
    }
    assert {name for name, rate in rates.items() if rate == 0.1} == {"pos_drop"} | inside
    assert rates["head_drop"] == 0
    assert all(rate == 0 for name, rate in rates.items() if "attn_drop" in name)
    plain = build("deit_tiny_patch16_224")
    assert all(layer.p == 0 for layer in plain.modules() if isinstance(layer, nn.Dropout))


@pytest.mark.parametrize("name", ["test_resnet", "regnety_002", "densenet121", "vgg11"])
def test_dropout_of_a_convnet(name: str) -> None:
    """It comes before the classifier: features are exact, logits vary."""
    model = build(name, dropout=0.5).eval()
    images = torch.randn(2, 3, 32, 32)
    for layer in model.modules():  # all but the normalisation trains
        if not isinstance(layer, nn.BatchNorm2d):
            layer.training = True
    assert torch.equal(model.forward_features(images), model.forward_features(images))
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["resnet50", "regnety_040", "convnext_tiny"])
def test_convnets_take_the_recipes_stochastic_depth(name: str) -> None:
    """A rate of 0.1, as the recipes have it, reaches blocks of convnets."""
    with torch.device("meta"):
        model = build(name, 64, drop_path=0.1)
    rates = [layer.drop_prob for layer in model.modules() if hasattr(layer, "drop_prob")]
    assert max(rates) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("densenet121", {"drop_path": 0.1}, "drop_path has no effect in densenet121"),
        ("vgg11", {"drop_path": 0.1}, "drop_path has no effect in vgg11"),
        ("deit_tiny_patch16_224", {"drop_path": 0.1, "depth": 1}, "drop_path has no effect"),
        ("naflexvit_base_patch16_gap", {"dropout": 0.1}, "dropout has no effect in naflexvit"),
        (
            "resnet18",
            {"drop_path": 0.1, "drop_path_decay": "constant"},
            "drop_path_decay needs the plain blocks of timm's VisionTransformer, which resnet18",
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"drop_path": 0.1, "drop_path_mode": "subset"},
            "drop_path_mode needs the plain blocks",
        ),
        (
            "vit_small_patch16_18x2_224",
            {"drop_path": 0.1, "drop_path_mode": "subset"},
            "drop_path_mode needs the plain blocks",
        ),
        ("resnet18", {"depth": 2}, "depth cannot be chosen for resnet18"),
        ("regnety_002", {"depth": 2}, "depth cannot be chosen for regnety_002"),
        ("vgg11", {"patch_size": 8}, "patch_size cannot be chosen for vgg11"),
    ],
)
def test_what_a_model_cannot_do_is_refused(name: str, options: Any, text: str) -> None:
    """An option that would have no effect is one line that says so."""
    with torch.device("meta"), pytest.raises(UserError, match=text) as caught:
        build(name, 224, **options)
    assert "\n" not in str(caught.value)
    assert "Found: " in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224", "mixer_s32_224", "cait_xxs24_224"],
)
def test_models_for_one_size_are_told_it(name: str) -> None:
    """Models that are built for a size take images of another one than timm's 224."""
    side = 448
    config = ModelConfig(model=name, drop_path=0.1)
    with torch.device("meta"):
        model = make_model(config, 5, side)
        assert model(torch.zeros(1, 3, side, side)).shape == (1, 5)


def test_image_size_fits_the_patches() -> None:
    """A side that is no multiple of the patch's is refused: timm would cut the rest off."""
    with pytest.raises(UserError, match=r"multiple of the patch's side \(16\)\. Found: 40"):
        build("deit_tiny_patch16_224", 40)


def kinds_of(model: nn.Module) -> dict[str, str]:
    """Which kind of parameter each one is, by its name."""
    kinds = {}
    for name, value in model.named_parameters():
        leaf = name.split(".")[-1]
        if name in ("cls_token", "dist_token", "pos_embed"):
            kinds[name] = "token"
        elif name.startswith("patch_embed"):
            kinds[name] = "patch"
        elif "norm" in name:
            kinds[name] = f"norm {leaf}"
        elif leaf == "gamma":
            kinds[name] = "scale"
        else:
            kinds[name] = "matrix" if value.ndim == 2 else "bias"
    return kinds


def assert_normal(value: Tensor, std: float) -> None:
    """Mean and spread of a normal distribution, within five standard errors, and its tails."""
    values, error = value.detach().flatten(), std / value.numel() ** 0.5
    assert values.mean().abs() < 5 * error
    assert abs(values.std() - std) < 5 * error
    # A uniform distribution of this spread would end at 1.73 deviations.
    assert (values.abs() > 2 * std).float().mean() == pytest.approx(0.0455, abs=0.05)
    if value.numel() > 1000:
        assert (values.abs() > 2 * std).any()


@pytest.mark.parametrize(
    "name",
    [
        "deit_small_patch16_224",
        "deit_small_distilled_patch16_224",
        "vit_small_patch16_224",
        "deit3_small_patch16_224",
    ],
)
def test_initial_weights_are_deits(name: str) -> None:
    """Every kind of parameter is distributed as in the published code."""
    model = make_model(ModelConfig(model=name, depth=2), 1000, 224)
    parameters, kinds = dict(model.named_parameters()), kinds_of(model)
    assert {"cls_token", "pos_embed", "head.weight"} <= parameters.keys()
    assert ("dist_token" in parameters) == ("head_dist.weight" in parameters) == ("dist" in name)
    for key, kind in kinds.items():
        value = parameters[key]
        if kind in ("token", "matrix"):
            assert_normal(value, 0.02)
        elif kind in ("bias", "norm bias"):
            assert (value == 0).all(), key
        elif kind == "norm weight":
            assert (value == 1).all(), key
        elif kind == "scale":
            assert torch.allclose(value, torch.tensor(1e-4)), key
    assert ("scale" in kinds.values()) == name.startswith("deit3")
    # PyTorch's default for convolutions is uniform within 1 / sqrt(inputs).
    bound = (3 * 16 * 16) ** -0.5
    patch = parameters["patch_embed.proj.weight"].detach()
    assert bound * 0.99 < patch.abs().max() <= bound
    assert patch.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert parameters["patch_embed.proj.bias"].abs().max() <= bound


def test_the_seed_decides_the_weights() -> None:
    """A seed gives the same weights whatever was drawn before, and draws nothing from outside."""
    first = build("deit_tiny_distilled_patch16_224").state_dict()
    torch.rand(3)
    state = torch.get_rng_state()
    again = build("deit_tiny_distilled_patch16_224").state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], value) for key, value in again.items())
    config = ModelConfig(model="deit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=3)
    zero, one = (make_model(config, 5, 32, seed).state_dict() for seed in (0, 1))
    for key in ("cls_token", "pos_embed", "head.weight", "blocks.1.mlp.fc1.weight"):
        assert not torch.equal(zero[key], one[key]), key


def test_blocks_stay_timms() -> None:
    """Without the option the blocks are timm's own."""
    assert all(type(block) is Block for block in build("deit_tiny_patch16_224").blocks)
