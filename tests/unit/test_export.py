"""`fastdeit export`: other programs read the weights, and graphs give the model's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from foreign_checkpoints import NUM_CLASSES, images, make_deit, save_official
from nightly import IS_NIGHT, nightly
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
from fastdeit.checkpoints.foreign import export as exports
from fastdeit.checkpoints.foreign.translate import from_foreign, to_official
from fastdeit.models import forward_heads
from fastdeit.tools.checkpoints.export import export
from fastdeit.tools.checkpoints.import_checkpoint import import_checkpoint
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole

DISTILLED, PLAIN = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"


def saved(model: nn.Module, tmp_path: Path, num_heads: int = 3) -> Path:
    """A checkpoint of ours, by way of an official one."""
    source = save_official(model, tmp_path / "official.pth")
    assert import_checkpoint(source, tmp_path / "ours.pt", num_heads=num_heads) == 0
    return tmp_path / "ours.pt"


def needs_onnx() -> Any:
    """Skip without the libraries of ONNX."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


def run_onnx(path: Path, batch: Tensor) -> Tensor:
    """The logits that onnxruntime gives."""
    session = needs_onnx().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": batch.numpy()})
    return torch.from_numpy(found)


def load_graph(path: Path) -> Any:
    """What runs an exported graph."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return lambda batch: run_onnx(path, batch)


@pytest.mark.parametrize("name", [DISTILLED, pytest.param(PLAIN, marks=nightly)])
def test_a_base_model_goes_all_the_way(name: str, tmp_path: Path) -> None:
    """Official, ours, timm, ONNX: the same logits to 1e-5, for the width of DeiT-B."""
    needs_onnx()
    pytest.importorskip("safetensors")
    shape = {"patch_size": 16, "embed_dim": 768, "depth": 2, "num_heads": 12, "img_size": 64}
    model = make_deit(name, **shape)
    batch = images(5, 64)
    checkpoint = saved(model, tmp_path, 12)
    ours = model_from_checkpoint(load_checkpoint(checkpoint))
    assert export(checkpoint, tmp_path / "a.safetensors") == 0
    assert export(checkpoint, tmp_path / "a.onnx") == 0
    theirs = timm.create_model(
        name.replace("tiny", "base"), num_classes=NUM_CLASSES, depth=2, img_size=64,
        checkpoint_path=str(tmp_path / "a.safetensors"),
    ).eval()  # fmt: skip
    with torch.no_grad():
        expected = model(batch)
        assert torch.equal(ours(batch), expected)
        assert torch.equal(theirs(batch), expected)
    found = run_onnx(tmp_path / "a.onnx", batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("name", [DISTILLED, PLAIN, "deit3_small_patch16_224"])
def test_weights_come_back(name: str, tmp_path: Path) -> None:
    """What timm and DeiT's code read has the very weights; timm loads it strictly."""
    library = pytest.importorskip("safetensors.torch")
    model = make_deit(name)
    state = model.state_dict()
    checkpoint = saved(model, tmp_path)
    assert export(checkpoint, tmp_path / "a.safetensors") == 0
    assert export(checkpoint, tmp_path / "a.pth") == 0
    for_timm = library.load_file(tmp_path / "a.safetensors")
    official = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert official.keys() == to_official(state).keys()
    for found in (for_timm, from_foreign(official, "official").state):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[each], value) for each, value in state.items())
    make_deit(name).load_state_dict(for_timm, strict=True)
    assert import_checkpoint(tmp_path / "a.pth", tmp_path / "again.pt", num_heads=3) == 0
    again = load_checkpoint(tmp_path / "again.pt")["model"]
    assert all(torch.equal(again[each], value) for each, value in state.items())


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_the_head_of_a_graph(suffix: str, tmp_path: Path) -> None:
    """Each head's logits are what the name says, for a batch of any size."""
    if suffix == ".onnx":
        needs_onnx()
    model, path = make_deit(), tmp_path / f"a{suffix}"
    checkpoint = saved(model, tmp_path)
    batch = images(4)
    with torch.no_grad():
        probs, mean = forward_heads(model, batch), model(batch)
    for head in (None, "mean", "class", "dist", "joint") if IS_NIGHT else (None, "dist", "joint"):
        assert export(checkpoint, path, head=head, overwrite=True) == 0  # type: ignore[arg-type]
        graph = load_graph(path)
        for count in (1, 4):
            found = graph(batch[:count]).detach()
            if head in (None, "mean"):
                torch.testing.assert_close(found, mean[:count], rtol=0, atol=1e-5)
            else:
                expected = probs[head][:count]  # type: ignore[index]
                torch.testing.assert_close(found.softmax(-1), expected, rtol=0, atol=1e-5)
            if head == "joint":
                torch.testing.assert_close(found.exp(), found.softmax(-1), rtol=0, atol=1e-5)


def test_what_a_file_says_of_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The call that builds timm's model is in the file and on stderr, and it works."""
    library = pytest.importorskip("safetensors")
    model = make_deit(PLAIN)
    checkpoint = saved(model, tmp_path)
    content = load_checkpoint(checkpoint)
    content["model_config"]["norm_eps"] = 1e-3
    config = exports.ModelConfig(**content["model_config"])
    call = exports.create_call(config, 32, NUM_CLASSES)
    built = eval(call, {"timm": timm, "functools": __import__("functools")})
    built.load_state_dict(model.state_dict())
    assert built.eval().norm.eps == 1e-3
    capsys.readouterr()
    assert export(checkpoint, tmp_path / "a.safetensors") == 0
    with library.safe_open(tmp_path / "a.safetensors", "pt") as file:
        facts = file.metadata()
    assert json.loads(facts["class_names"]) == content["class_names"]
    assert f"to be loaded into: {facts['create']}" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["onnx", "torch"])
def test_a_graph_of_other_numbers_is_refused(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written if the graph's logits are not the model's."""
    if program == "onnx":
        needs_onnx()
    checkpoint = saved(make_deit(), tmp_path)
    before = sorted(tmp_path.iterdir())
    samples = exports._samples

    def shifted(model: nn.Module, size: int) -> Any:
        return ((batch, logits + 2e-4) for batch, logits in samples(model, size))

    monkeypatch.setattr(exports, "_samples", shifted)
    with pytest.raises(UserError, match=r"within 0.0001. Found: \w+\W?\w* 0.0002 apart"):
        export(checkpoint, tmp_path / "a.bin", format=program)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_number_is_apart() -> None:
    """NaN and other shapes are infinitely far."""
    assert exports._apart(np.zeros((2, 3)), torch.full((2, 3), 0.5)) == 0.5
    assert math.isinf(exports._apart(np.full((2, 3), np.nan), torch.zeros(2, 3)))
    assert math.isinf(exports._apart(np.zeros((1, 3)), torch.zeros(2, 3)))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{tmp}/ours.pt {tmp}/a.bin", "OUT must end in .safetensors, .onnx, .pt2, .pth, or"),
        ("{tmp}/ours.pt {tmp}/mine.onnx", "OUT must be a new file. Found: "),
        ("{tmp}/ours.pt {tmp}/ours.pt --format timm --overwrite", "the file that is read"),
        ("{tmp}/ours.pt {tmp}/a.pth --head joint", "head has no effect in weights. Found: joint"),
        ("{tmp}/ours.pt {tmp}/a.pt2 --head joint", "head must be class for a model without a"),
        ("{tmp}/ours.pt {tmp}/a.pth --weights ema", "the checkpoint must hold averaged weights"),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is one line with exit code 2, and nothing is written."""
    saved(make_deit(PLAIN), tmp_path)
    (tmp_path / "mine.onnx").write_text("mine")
    capsys.readouterr()
    assert main(["export", *line.format(tmp=tmp_path).split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.onnx", "official.pth", "ours.pt"]
    assert (tmp_path / "mine.onnx").read_text() == "mine"


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    checkpoint = saved(make_deit(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r"exporting to ONNX needs onnx. .*'fastdeit\[export\]'"):
        export(checkpoint, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
