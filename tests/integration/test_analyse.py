"""`fastdeit analyse disagreement` and `tokens`, and `evaluate` at other sizes, on sample data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import run_processes
from PIL import Image

from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import (
    checkpoint_content,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from fastdeit.config import ModelConfig
from fastdeit.models import make_model
from fastdeit.models.initialise import resize_positions
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.cli import main
from fastdeit.tools.evaluate.analyse.disagreement import papers_rate

DISTILLED = ModelConfig(
    model="deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3
)
CONVNET = ModelConfig(model="test_resnet")
HERE = ("--engine", "pil", "--threads", "1", "--device", "cpu")


@torch.no_grad()
def tell_apart(model: Any, size: int) -> None:
    """Let heads decide by what images differ in; fresh ones say the same of all."""
    weights = torch.Generator().manual_seed(3)
    given = model.get_classifier()
    heads = given if isinstance(given, tuple) else (given,)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5, generator=weights)
    logits: list[torch.Tensor] = []
    hooks = [each.register_forward_hook(lambda *args: logits.append(args[2])) for each in heads]
    bright, noise = (
        torch.randn(shape, generator=torch.Generator().manual_seed(3))
        for shape in ((32, 1, 1, 1), (32, 3, size, size))
    )
    model.eval()(bright + noise / 2)
    for hook, each, values in zip(hooks, heads, logits, strict=True):
        hook.remove()
        each.bias -= values.mean(0)


@pytest.fixture(scope="module")
def runs(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with random weights: a student at 32 pixels, its teacher at 48, others' classes."""
    root = tmp_path_factory.mktemp("runs")
    classes = open_dataset(containers["val"]).classes
    made = {}
    for name, config, size, known in (
        ("student", DISTILLED, 32, classes),
        ("teacher", CONVNET, 48, classes),
        ("foreign", CONVNET, 32, Classes(classes.names[1:], classes.ids[1:])),
    ):
        (root / name).mkdir()
        made[name] = root / name / "checkpoint.pt"
        models = [make_model(config, len(known), size, seed) for seed in (3, 4)]
        for model in models:
            tell_apart(model, size)
        content = checkpoint_content(models[0], config, size, known, ema=models[1].state_dict())
        save_checkpoint(made[name], content)
    return made


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[dict[str, Any], str]:
    """(the JSON object, what was written to stderr) of a command that does well."""
    assert main(list(map(str, (*line, *HERE)))) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]), captured.err


def top1(capsys: pytest.CaptureFixture[str], *line: object) -> dict[str, float]:
    """Each head's top-1 by `fastdeit evaluate`, as a fraction."""
    facts, _ = run(capsys, "evaluate", *line)
    return {head: score["top1_pct"] / 100 for head, score in facts["heads"].items()}


def test_disagreement_with_the_truth_is_the_error(
    runs: dict[str, Path],
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Models of two sizes and chosen heads: the first row is 1 - top-1 of `fastdeit evaluate`."""
    data = containers["val"]
    wanted = (f"{runs['student']}:dist", runs["teacher"], f"{runs['student']}:class")
    facts, table = run(
        capsys, "analyse", "disagreement", *wanted, "--data", data, "--out", tmp_path / "an"
    )
    assert facts["order"] == ["ground truth", "student dist", "student class", "teacher"]
    assert facts["num_images"] == 40
    student = top1(capsys, runs["student"], data)
    teacher = top1(capsys, runs["teacher"], data)
    errors = [0, 1 - student["dist"], 1 - student["class"], 1 - teacher["class"]]
    assert facts["rate"][0] == pytest.approx(errors)
    matrix = torch.tensor(facts["rate"])
    assert torch.equal(matrix, matrix.T)
    off_diagonal = matrix[~torch.eye(4, dtype=torch.bool)]
    assert off_diagonal.min() > 0 and len(set(off_diagonal.tolist())) > 3
    assert facts["paper_rate"][0] == [None, 0.169, 0.170, 0.171]
    assert facts["paper_rate"][1][2] == 0.050
    # The paper's two heads are of one model.
    assert papers_rate("deit_b class", "a", "deit_b distillation", "a") == 0.050
    assert papers_rate("deit_b class", "a", "deit_b distillation", "b") is None
    assert papers_rate("deit_b class", "a", "convnet", "b") == facts["paper_rate"][2][3]
    assert "in brackets: Table 4 of the paper" in table
    assert json.loads((tmp_path / "an" / "disagreement.json").read_text()) == facts
    with Image.open(tmp_path / "an" / "disagreement.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.slow
def test_disagreement_in_two_processes(
    runs: dict[str, Path],
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Processes that share the images find the same matrix."""
    line = ["analyse", "disagreement", runs["student"], "--data", containers["val"]]
    line += ["--batch-size", 3]
    one, _ = run(capsys, *line)
    code, out, err = run_processes(2, *map(str, (*line, *HERE)), folder=tmp_path)
    assert code == 0, err
    assert json.loads(out) == one


def test_tokens(
    runs: dict[str, Path],
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Learned tokens, each block and the normalisation, in numbers, in a table and in a plot."""
    line = ("analyse", "tokens", runs["student"], "--data", containers["val"], "--out", tmp_path)
    facts, table = run(capsys, *line)
    state = load_checkpoint(runs["student"])["model"]
    one, other = state["cls_token"].flatten(), state["dist_token"].flatten()
    assert facts["learned"] == pytest.approx(float(torch.cosine_similarity(one, other, 0)))
    one, other = one + state["pos_embed"][0, 0], other + state["pos_embed"][0, 1]
    assert facts["means"][0] == pytest.approx(float(torch.cosine_similarity(one, other, 0)))
    assert facts["names"] == ["input", "block 1", "block 2", "norm"]
    assert facts["num_images"] == 40
    assert all(-1 <= mean <= 1 for mean in facts["means"])
    last = next(line for line in table.splitlines() if line.startswith("block 2"))
    assert last.split()[-1] == "0.93"
    assert (tmp_path / "tokens.png").read_bytes()[:4] == b"\x89PNG"
    averaged, _ = run(capsys, *line, "--weights", "ema")
    assert averaged["learned"] != facts["learned"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("disagreement --data {val}", "at least one CHECKPOINT. Found: none."),
        (
            "disagreement {teacher}:dist --data {val}",
            "head must be one of class for {teacher}. Found: dist. Pass {teacher}:class",
        ),
        (
            "disagreement {student} {foreign} --data {val}",
            "dataset must have the 19 classes of the checkpoint. Found: n",
        ),
        ("disagreement {student} --data {val} --image-size 0", "image_size must be above 0."),
        (
            "disagreement {student} --data {val} --image-size 33",
            "must be a multiple of the patch's side (8). Found: 33.",
        ),
        ("disagreement {student} --data {val} --batch-size 0", "batch_size must be at least 1."),
        ("disagreement {student} --data {val} --out {student}", "out must be a folder."),
        (
            "tokens {teacher} --data {val}",
            "must be of a model with a distillation token. Found: test_resnet, in {teacher}.",
        ),
        ("tokens {student}x --data {val}", "checkpoint is not a file."),
    ],
)
def test_wrong_input_is_one_line(
    line: str,
    text: str,
    runs: dict[str, Path],
    containers: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be analysed is refused with one line and exit code 2."""
    paths = {**runs, "val": containers["val"]}
    assert main(["analyse", *line.format(**paths).split()]) == 2
    captured = capsys.readouterr()
    assert text.format(**paths) in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_evaluate_at_another_size(
    runs: dict[str, Path], containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Position embeddings are resized for a transformer; a convnet takes the size as it is."""
    facts, text = run(capsys, "evaluate", runs["student"], containers["val"], "--image-size", 48)
    assert (facts["image_size"], facts["num_images"], facts["set"]) == (48, 40, "none")
    assert facts["paper"] == []
    assert facts["model_options"] == {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    assert "no figures of the paper stand beside it: it has 20 classes, ImageNet 1,000" in text
    content = load_checkpoint(runs["student"])
    model = model_from_checkpoint(content, "ema", 48)
    given = content["ema"]["pos_embed"]
    assert torch.equal(model.pos_embed[:, :2], given[:, :2])
    expected, _ = resize_positions(given[:, 2:], (4, 4), (6, 6))
    assert torch.equal(model.pos_embed[:, 2:], expected)
    assert not model.training
    at_32, _ = run(capsys, "evaluate", runs["teacher"], containers["val"], "--image-size", 32)
    at_48, _ = run(capsys, "evaluate", runs["teacher"], containers["val"])
    assert (at_32["image_size"], at_48["image_size"]) == (32, 48)
    assert at_32["heads"] != at_48["heads"]


def test_evaluate_both_kinds_of_weights(
    runs: dict[str, Path], containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One pass gives what two give."""
    line = ("evaluate", runs["student"], containers["val"], "--weights")
    both, text = run(capsys, *line, "both")
    raw, _ = run(capsys, *line, "raw")
    ema, _ = run(capsys, *line, "ema")
    assert both["heads"] == raw["heads"]
    assert both["ema_heads"] == ema["heads"] != raw["heads"]
    assert text.count("raw weights") == text.count("ema weights") == 3
    kept = json.loads(runs["student"].with_name("evaluation.json").read_text())
    assert kept.pop("by_class")["weights"] == "ema"
    assert kept == ema
