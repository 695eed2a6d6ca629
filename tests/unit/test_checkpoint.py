"""Checkpoints: whole or not there, and nothing in them is run."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checkpoint_contents import assert_same
from torch import nn

from fastdeit import UserError
from fastdeit.checkpoints.classes import Classes, read_classes
from fastdeit.checkpoints.file import (
    FORMAT,
    checkpoint_content,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
    unwrap_model,
)
from fastdeit.config import ModelConfig
from fastdeit.models import forward_heads, make_model

pytestmark = pytest.mark.slow  # as a whole

CONFIG = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=32, depth=1, num_heads=2
)
CLASSES = Classes(("cat", "dog", "fish"), ("n00000007", "n00000008", "n00000009"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a small model."""
    model = make_model(CONFIG, len(CLASSES), 32, seed=3)
    content = checkpoint_content(model, CONFIG, 32, CLASSES, step=5)
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    return tmp_path / "checkpoint.pt"


def small_content() -> dict[str, Any]:
    """A content with every kind of value, in a few kilobytes."""
    return {
        "format": FORMAT,
        "model": {
            "w": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
            "b": torch.tensor([1.5, -0.0, float("nan")], dtype=torch.bfloat16),
            "n": torch.tensor(7),
        },
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 1: {"mask": torch.tensor([True, False])}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "on": True}],
        },
        "class_names": ["cat", "d\u00f6g"],
        "empty": torch.empty(0, 3, dtype=torch.int64),
        "step": 300,
    }


def test_round_trip(saved: Path) -> None:
    """The model that comes back gives the same probabilities on all three heads."""
    content = load_checkpoint(saved)
    assert content["step"] == 5
    assert read_classes(content) == CLASSES
    images = torch.randn(4, 3, 32, 32)
    expected = forward_heads(make_model(CONFIG, len(CLASSES), 32, seed=3).eval(), images)
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


def test_a_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    """What cannot be checked is not loaded."""
    torch.save(small_content(), tmp_path / "old.pt")
    with pytest.raises(UserError, match=r"cannot be read.*old.pt \(.*it has no checksum"):
        load_checkpoint(tmp_path / "old.pt")


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """A byte that is not as it was is one clear error, or one that does not matter."""
    path, content = tmp_path / "checkpoint.pt", small_content()
    save_checkpoint(path, content)
    data = path.read_bytes()
    found = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            found += 1
        else:
            assert_same(loaded, content)
    assert found > 1000
    path.write_bytes(data)
    assert_same(load_checkpoint(path), content)


def test_a_damaged_weight_is_found_by_our_checksum(tmp_path: Path) -> None:
    """A file that is whole but holds another value is refused."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, small_content())
    raw = torch.load(path, weights_only=True)
    raw["model"]["n"] += 1
    torch.save(raw, path)
    with pytest.raises(UserError, match="its checksum is not that of its content"):
        load_checkpoint(path)


def test_what_the_checksum_does_not_cover_is_left_out(tmp_path: Path) -> None:
    """What comes back is plain: no gradients wanted, no dict with attributes."""
    path, content = tmp_path / "checkpoint.pt", small_content()
    save_checkpoint(path, content)
    raw = torch.load(path, weights_only=True)
    raw["model"]["w"].requires_grad_()
    raw["optimizer"] = OrderedDict(raw["optimizer"])
    torch.save(raw, path)
    assert_same(load_checkpoint(path), content)


def test_an_interrupted_save_keeps_the_old_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that fails leaves the checkpoint that was there, and nothing else."""
    before = saved.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, small_content())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_is_an_os_error(saved: Path) -> None:
    """What the writing said comes out of torch's writer as it was said."""
    before = saved.read_bytes()
    big = {"format": FORMAT, "w": torch.zeros(1 << 16)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_checkpoint(saved, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_the_name_is_put_on_the_disk_last(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it gets its name, the folder after."""
    calls: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        calls.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    save_checkpoint(saved, small_content())
    assert calls == [".checkpoint.pt.partial", "rename", saved.parent.name]


def test_the_content_refers_to_the_tensors() -> None:
    """Nothing is copied, and the wrappers of torch.compile and of data parallelism are left out."""
    model = make_model(CONFIG, 3, 32)
    names = list(model.state_dict())
    wrapped = nn.DataParallel(torch.compile(model))
    for one in (model, torch.compile(model), wrapped):
        state = checkpoint_content(one, CONFIG, 32, CLASSES)["model"]
        assert list(state) == names
        assert state["head.weight"].data_ptr() == model.head.weight.data_ptr()
    assert unwrap_model(wrapped) is model
    model.blocks[0] = torch.compile(model.blocks[0])
    assert list(checkpoint_content(model, CONFIG, 32, CLASSES)["model"]) == names


def test_data_parallel_over_processes_is_unwrapped(tmp_path: Path) -> None:
    """The wrapper that torchrun's processes train through is left out."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.Linear(2, 3)
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert unwrap_model(wrapped) is model
        assert list(checkpoint_content(wrapped, CONFIG, 32, CLASSES)["model"]) == ["weight", "bias"]
    finally:
        dist.destroy_process_group()


def test_a_part_of_a_large_tensor_is_saved_alone(tmp_path: Path) -> None:
    """A view does not drag the memory that it lies in into the file."""
    content = {"format": FORMAT, "row": torch.arange(1e6).reshape(1000, 1000)[5]}
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    assert (tmp_path / "checkpoint.pt").stat().st_size < 10_000
    assert_same(load_checkpoint(tmp_path / "checkpoint.pt"), content)


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    """A value that would need code to be loaded is an error with its place, before any writing."""
    content = {"format": FORMAT, "optimizer": {"state": [{"out": tmp_path}]}}
    with pytest.raises(TypeError, match=r"PosixPath at checkpoint.optimizer.state.0.out"):
        save_checkpoint(tmp_path / "checkpoint.pt", content)
    assert list(tmp_path.iterdir()) == []


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
    make_model(ModelConfig(model="pvt_v2_b0"), 3, 64)  # its patches of 7 pixels overlap


def test_unknown_models_are_named() -> None:
    """A name that timm does not know is one clear error with names near it."""
    with pytest.raises(UserError, match=r"model is not one of timm .* Found: deit_huge"):
        make_model(ModelConfig(model="deit_huge"), 3, 32)
    with pytest.raises(UserError, match=r"embed_dim cannot be chosen for resnet18\. Found: 8"):
        make_model(ModelConfig(model="resnet18", embed_dim=8), 3, 32)
