"""Checkpoints: whole or not there, and nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from fastdeit import UserError
from fastdeit.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from fastdeit.config import ModelConfig
from fastdeit.models import forward_heads, make_model

CONFIG = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=32, depth=1, num_heads=2
)
NAMES = ("cat", "dog", "fish")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a small model."""
    model = make_model(CONFIG, len(NAMES), 32, seed=3)
    save_checkpoint(tmp_path / "checkpoint.pt", model, CONFIG, 32, NAMES, step=5)
    return tmp_path / "checkpoint.pt"


def test_round_trip(saved: Path) -> None:
    """The model that comes back gives the same probabilities on all three heads."""
    content = load_checkpoint(saved)
    assert content["step"] == 5
    assert tuple(content["class_names"]) == NAMES
    images = torch.randn(4, 3, 32, 32)
    expected = forward_heads(make_model(CONFIG, len(NAMES), 32, seed=3).eval(), images)
    found = forward_heads(model_from_checkpoint(content), images)
    assert set(found) == {"class", "dist", "joint"}
    for name, probs in expected.items():
        assert torch.equal(found[name], probs), name
    assert torch.allclose(found["joint"], (found["class"] + found["dist"]) / 2)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_one_clear_error(saved: Path, share: float) -> None:
    """A cut checkpoint names its path and size."""
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"checkpoint cannot be read. Found: .*checkpoint.pt \("):
        load_checkpoint(saved)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickle that would run a command is refused, and the command does not run."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": "fastdeit-checkpoint-1", "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="checkpoint cannot be read"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="checkpoint cannot be read"):
        load_checkpoint(tmp_path / "bare.pt")
    assert not (tmp_path / "owned").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A torch file of another program is refused by name."""
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="was not written by this version of fastdeit"):
        load_checkpoint(tmp_path / "other.pt")


def test_an_interrupted_save_keeps_the_old_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that fails leaves the checkpoint that was there."""
    before = saved.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, make_model(CONFIG, 3, 32), CONFIG, 32, NAMES)
    assert saved.read_bytes() == before


def test_initial_weights_go_by_the_seed() -> None:
    """A seed gives the same weights again, another one others; torch's own state is left alone."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [make_model(CONFIG, 3, 32, seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(models[0]["head.weight"], models[1]["head.weight"])
    assert not torch.equal(models[0]["head.weight"], models[2]["head.weight"])


def test_a_side_that_patches_do_not_fill_is_refused() -> None:
    """Pixels beyond the last whole patch would go unseen."""
    with pytest.raises(UserError, match=r"must be a multiple of the patch's side \(8\). Found: 65"):
        make_model(CONFIG, 3, 65)


def test_unknown_models_are_named() -> None:
    """A name that timm does not know is one clear error with names near it."""
    with pytest.raises(UserError, match=r"model is not one of timm .* Found: deit_huge"):
        make_model(ModelConfig(model="deit_huge"), 3, 32)
    with pytest.raises(UserError, match=r"embed_dim cannot be chosen for resnet18\. Found: 8"):
        make_model(ModelConfig(model="resnet18", embed_dim=8), 3, 32)
