"""`fastdeit import`: every format, every name accounted for, nothing run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_checkpoints import (
    NUM_CLASSES,
    images,
    make_deit,
    randomise,
    save_official,
    to_mmpretrain_by_hand,
)
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.augment.compose import MEAN, STD
from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
from fastdeit.checkpoints.foreign.recognise import recognise
from fastdeit.checkpoints.foreign.translate import (
    fold_normalisation,
    from_foreign,
    to_mmpretrain,
    to_official,
    to_transformers,
)
from fastdeit.models import forward_heads
from fastdeit.tools.checkpoints.import_checkpoint import import_checkpoint
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole

DEIT3 = "deit3_small_patch16_224"


def imported(source: Path, out: Path, **options: Any) -> nn.Module:
    """The model of an imported file."""
    assert import_checkpoint(source, out, **options) == 0
    return model_from_checkpoint(load_checkpoint(out))


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names with the same bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", DEIT3]
)
@pytest.mark.parametrize("form", ["official", "timm", "timm.safetensors", "mmpretrain"])
def test_models_come_back(
    name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The imported model has the very weights, and gives the very logits."""
    model = make_deit(name)
    state, path = model.state_dict(), tmp_path / "source.pth"
    if form == "official":
        torch.save({"model": to_official(state)}, path)
        assert ("blocks.0.gamma_1" in to_official(state)) is (name == DEIT3)
    elif form == "mmpretrain":
        theirs = to_mmpretrain(state)
        if name != DEIT3:
            assert_equal_states(theirs, to_mmpretrain_by_hand(state))
        torch.save({"state_dict": theirs, "meta": {"epoch": 300}}, path)
    elif form == "timm":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        path = path.with_suffix(".safetensors")
        library = pytest.importorskip("safetensors.torch")
        library.save_file(state, path)
    found = imported(path, tmp_path / "out.pt", num_heads=3)
    assert_equal_states(found.state_dict(), state)
    assert torch.equal(found(images()), model(images()))
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == form.split(".")[0]
    assert told["image_size"] == 32


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", DEIT3]
)
def test_names_go_and_come(name: str) -> None:
    """To another program and back: the very tensors, bit for bit."""
    state = make_deit(name).state_dict()
    there_and_back = {"official": to_official, "mmpretrain": to_mmpretrain}
    if name != DEIT3:  # transformers has no such model
        there_and_back["transformers"] = to_transformers
    for form, away in there_and_back.items():
        result = from_foreign(away(state), form)  # type: ignore[arg-type]
        assert_equal_states(result.state, state)
        assert not result.ignored


TRANSFORMERS = (
    "DeiTForImageClassificationWithTeacher",
    "DeiTForImageClassification",
    "ViTForImageClassification",
)


@pytest.mark.parametrize("eps", [1e-12, 1e-6])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(kind: str, eps: float, tmp_path: Path) -> None:
    """A folder that transformers wrote gives its logits, and the weights go back bit for bit."""
    library = pytest.importorskip("transformers")
    config_class = library.ViTConfig if kind.startswith("ViT") else library.DeiTConfig
    config = config_class(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        image_size=32, patch_size=8, num_labels=NUM_CLASSES, layer_norm_eps=eps,
    )  # fmt: skip
    theirs = randomise(getattr(library, kind)(config))
    with torch.no_grad():  # tokens so small that the norm's epsilon shows
        for name, value in theirs.named_parameters():
            if "embeddings" in name:
                value.mul_(0.01)
    theirs.save_pretrained(tmp_path / "hub")
    found = imported(tmp_path / "hub", tmp_path / "out.pt")
    with torch.no_grad():
        expected = theirs(pixel_values=images())
        torch.testing.assert_close(found(images()), expected.logits, rtol=0, atol=1e-5)
        if kind.endswith("Teacher"):
            heads = forward_heads(found, images())
            for name, logits in (
                ("class", expected.cls_logits), ("dist", expected.distillation_logits)
            ):  # fmt: skip
                torch.testing.assert_close(heads[name], logits.softmax(-1), rtol=0, atol=1e-5)
    files = pytest.importorskip("safetensors.torch")
    stored = files.load_file(tmp_path / "hub" / "model.safetensors")
    assert_equal_states(to_transformers(found.state_dict()), stored)
    # The names that the living model has are those of another release.
    torch.save(theirs.state_dict(), tmp_path / "live.bin")
    (tmp_path / "config.json").write_text((tmp_path / "hub" / "config.json").read_text())
    again = imported(tmp_path / "live.bin", tmp_path / "again.pt")
    assert_equal_states(again.state_dict(), found.state_dict())


def test_what_transformers_has_else(tmp_path: Path) -> None:
    """Its epsilon and its token without a head are options of the model, in every norm of it."""
    library = pytest.importorskip("transformers")
    config = library.DeiTConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=192,
        image_size=32, patch_size=8, num_labels=NUM_CLASSES,
    )  # fmt: skip
    library.DeiTForImageClassification(config).save_pretrained(tmp_path / "hub")
    import_checkpoint(tmp_path / "hub", tmp_path / "out.pt")
    content = load_checkpoint(tmp_path / "out.pt")
    assert content["model_config"]["norm_eps"] == 1e-12
    assert content["model_config"]["reg_tokens"] == 1
    model = model_from_checkpoint(content)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}
    with pytest.raises(UserError, match=r"must be that of config.json \(3\)\. Found: 6"):
        import_checkpoint(tmp_path / "hub", tmp_path / "new.pt", num_heads=6)
    colours = tmp_path / "hub" / "preprocessor_config.json"
    for content, text in (
        ({"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}, "image_mean must be three numbers"),
        ({"image_mean": [0.5] * 3, "image_std": [0, 1, 1]}, "image_std must be three numbers"),
        ([], "preprocessor_config.json must hold an object. Found: a list"),
    ):
        colours.write_text(json.dumps(content))
        with pytest.raises(UserError, match=text):
            import_checkpoint(tmp_path / "hub", tmp_path / "new.pt")


def test_other_colours_are_folded_in() -> None:
    """A model of other colours' mean and spread gives the same for the same image."""
    model, pixels = make_deit().double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        shift, scale = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (mean, std))
        return (pixels - shift) / scale

    expected = model(normalised(mean, std))
    model.load_state_dict(fold_normalisation(model.state_dict(), mean, std))
    torch.testing.assert_close(model(normalised(MEAN, STD)), expected)


def test_colours_of_a_named_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tag says which weights they are; without one a line says what timm's were trained with."""
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    model = timm.create_model(name, depth=1, img_size=32, num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    shown = (pixels - mean) / std
    tagged = imported(tmp_path / "a.pth", tmp_path / "b.pt", model=f"{name}.augreg_in21k_ft_in1k")
    assert "takes ImageNet's mean and spread" in capsys.readouterr().err
    torch.testing.assert_close(tagged(shown), model(pixels * 2 - 1), atol=1e-5, rtol=1e-5)
    plain = imported(tmp_path / "a.pth", tmp_path / "c.pt", model=name)
    assert "std (0.5, 0.5, 0.5); images keep" in capsys.readouterr().err
    torch.testing.assert_close(plain(shown), model(shown), atol=1e-5, rtol=1e-5)
    imported(tmp_path / "a.pth", tmp_path / "d.pt", model="deit_tiny_patch16_224")
    assert "mean" not in capsys.readouterr().err


def test_raw_and_averaged_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training checkpoint of DeiT: both kinds of weights, and the rest named as ignored."""
    raw, ema = make_deit(), make_deit()
    with torch.no_grad():
        ema.head.bias += 1
    path = save_official(
        raw, tmp_path / "checkpoint.pth", model_ema=ema.state_dict(), epoch=3,
        args=argparse.Namespace(lr=1e-3), optimizer={"state": {}},
    )  # fmt: skip
    for weights, model in (("raw", raw), ("ema", ema)):
        found = imported(path, tmp_path / f"{weights}.pt", weights=weights, num_heads=3)
        assert_equal_states(found.state_dict(), model.state_dict())
        captured = capsys.readouterr()
        ignored = json.loads(captured.out)["ignored"]
        other = "model_ema" if weights == "raw" else "model"
        assert ignored == sorted([other, "epoch", "args", "optimizer"])
        assert f"ignored: {other} (the other weights; --weights " in captured.err
    with pytest.raises(UserError, match="Found: no average in"):
        import_checkpoint(
            save_official(raw, tmp_path / "bare.pth"), tmp_path / "no.pt", weights="ema"
        )


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("deit_tiny_patch16_224", 224),
        ("deit_base_patch16_384", 384),
        ("deit_base_distilled_patch16_384", 384),
        ("deit_small_distilled_patch16_224", 224),
        ("deit3_medium_patch16_224", 224),
        ("deit3_huge_patch14_224", 224),
    ],
)
def test_published_models_are_recognised(name: str, size: int) -> None:
    """From shapes alone: timm's name, without a single option of ours."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    found = recognise(state)
    assert found.config.model == name
    assert (found.image_size, found.num_classes, found.notes) == (size, 1000, ())
    options = ("patch_size", "embed_dim", "depth", "num_heads", "reg_tokens", "norm_eps")
    assert all(getattr(found.config, option) is None for option in options)


def test_a_convnet_by_name(tmp_path: Path) -> None:
    """A teacher of the paper's kind: the name is given, batch norm's counters come too."""
    model = timm.create_model("regnety_002", num_classes=NUM_CLASSES).eval()
    path = save_official(model, tmp_path / "regnet.pth")
    with pytest.raises(UserError, match="model can be found for DeiT and ViT alone"):
        import_checkpoint(path, tmp_path / "out.pt")
    found = imported(path, tmp_path / "out.pt", model="regnety_002")
    assert_equal_states(found.state_dict(), model.state_dict())


def test_half_precision_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of half precision are widened, which changes none of them."""
    model = make_deit().half()
    found = imported(save_official(model, tmp_path / "a.pth"), tmp_path / "out.pt", num_heads=3)
    assert_equal_states(found.half().state_dict(), model.state_dict())
    assert "weights of another precision become float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"extra.weight": 1}, "Found: extra.weight too many"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "Found: a too many; b too many; c too many and 1 more"),
        ({"norm.bias": None}, "Found: no norm.bias. Pass the --model"),
        ({"head.weight": None}, "must hold the classifier of deit_.*_distilled_.*Found: no head.w"),
        ({"norm.bias": float("nan")}, "Found: norm.bias with 48 numbers that are not finite"),
        ({"dist_token": None}, "position embeddings must lie on a square. Found: 17 "),
        ({"norm.weight": 5}, r"Found: norm.weight \(5,\) instead of \(48,\)"),
        ({"norm.weight": "text"}, "weights must be tensors by name. Found: norm.weight"),
    ],
)
def test_every_name_is_accounted_for(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    """A weight too many, missing or of another shape: one line, and nothing is written."""
    state: dict[str, Any] = dict(make_deit().state_dict())
    for name, value in change.items():
        state.pop(name, None)
        if value is not None:
            state[name] = torch.zeros(value) if isinstance(value, int) else value
        if isinstance(value, float):
            state[name] = torch.full((48,), value)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=text):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "out.pt", num_heads=3)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("form", ["mmpretrain", "transformers"])
def test_unknown_names_of_other_programs(form: str) -> None:
    """What the tables do not know is refused, and what no classifier needs is named."""
    state = make_deit().state_dict()
    theirs = to_mmpretrain(state) if form == "mmpretrain" else to_transformers(state)
    extra = "data_preprocessor.mean" if form == "mmpretrain" else "deit.pooler.dense.weight"
    result = from_foreign({**theirs, extra: torch.zeros(3)}, form)  # type: ignore[arg-type]
    assert set(result.ignored) == {extra}
    assert_equal_states(result.state, state)
    unknown = "backbone.layers.0.ffn.layers.2.weight"
    with pytest.raises(UserError, match=f"{form} must have no unknown names. Found: {unknown}"):
        from_foreign({**theirs, unknown: torch.zeros(3)}, form)  # type: ignore[arg-type]


def test_a_part_of_the_attention_is_missing() -> None:
    """Queries without keys are no attention."""
    state = to_transformers(make_deit().state_dict())
    del state["deit.encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(UserError, match=r"Found: no blocks\.1\.attn\.k\.bias beside"):
        from_foreign(state, "transformers")


def test_code_is_not_run(tmp_path: Path) -> None:
    """A pickle that would run a command is refused by its name, and the command does not run."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model": make_deit().state_dict(), "hook": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"it would run code: posix\.mkdir"):
        import_checkpoint(tmp_path / "evil.pth", tmp_path / "out.pt")
    torch.save(make_deit(), tmp_path / "whole.pth")
    with pytest.raises(UserError, match="it would run code: "):
        import_checkpoint(tmp_path / "whole.pth", tmp_path / "out.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth", "whole.pth"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{tmp}/none.pth {tmp}/out.pt", "source must be a file, or a folder with model.safe"),
        ("{tmp}/text.pth {tmp}/out.pt", "text.pth (5 bytes; it is no file of torch.save)"),
        ("{tmp}/pickle.pth {tmp}/out.pt", "it would run code"),
        (
            "{tmp}/a.pth {tmp}/out.pt --format timm --model resnet18",
            "weights must hold the classifier of resnet18. Found: no fc.weight, but cls_token; ",
        ),
        ("{tmp}/a.pth {tmp}/text.pth", "OUT must be a new file. Found: "),
        ("{tmp}/a.pth {tmp}/a.pth --overwrite", "OUT must be a new file. Found: "),
        ("{tmp}/a.pth {tmp}/out.pt", "must have no"),
        ("{tmp}/a.pth {tmp}/out.pt --format timm --model fly", "model is not one of timm"),
        ("{tmp}/a.pth {tmp}/out.pt --format timm --num-heads 5", "num_heads must divide the width"),
        ("{tmp}/a.pth {tmp}/out.pt --format timm", "num_heads must be given where heads are not"),
        (
            "{tmp}/a.pth {tmp}/out.pt --format timm --num-heads 3 --classes {tmp}/two.txt",
            "classes must be as many names as the model has outputs (7). Found: 2 in",
        ),
        ("{tmp}/ours.pt {tmp}/out.pt", "source must be of another program. Found: "),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is one line with exit code 2, and nothing is written."""
    torch.save(make_deit().state_dict(), tmp_path / "a.pth")
    imported(tmp_path / "a.pth", tmp_path / "ours.pt", num_heads=3)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"path": tmp_path}))
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    capsys.readouterr()
    extra = " --format mmpretrain" if text == "must have no" else ""
    assert main(["import", *(line + extra).format(tmp=tmp_path).split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.pth", "ours.pt", "pickle.pth", "text.pth", "two.txt"]


def test_class_names(tmp_path: Path) -> None:
    """Numbers, a file's, or ImageNet's."""
    path = save_official(make_deit(num_classes=1000), tmp_path / "a.pth")
    assert import_checkpoint(path, tmp_path / "out.pt", num_heads=3) == 0
    assert load_checkpoint(tmp_path / "out.pt")["class_names"] == list(map(str, range(1000)))
    import_checkpoint(path, tmp_path / "out.pt", num_heads=3, classes="imagenet", overwrite=True)
    content = load_checkpoint(tmp_path / "out.pt")
    names, ids = content["class_names"], content["class_ids"]
    assert (names[0], ids[0]) == ("tench, Tinca tinca", "n01440764")
    assert (names[999][:13], ids[999]) == ("toilet tissue", "n15075141")
