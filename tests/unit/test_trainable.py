"""FixRes: the classifier and the last batch norm are trained, all else stays bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from augment_batches import NUM_CLASSES, make_batch
from jobs import assert_same_run, run_processes
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.augment import augment
from fastdeit.batch import Batch
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.machine.device import choose_compute
from fastdeit.models import make_model, num_parameters
from fastdeit.models.flops import forward_flops, train_flops
from fastdeit.models.trainable import last_batch_norm, set_trainable
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import eval_plan, train_plan
from fastdeit.pipelines.plan.crops import crop_rule
from fastdeit.recipes import fill_recipe
from fastdeit.tools.cli import main
from fastdeit.training import loop as train_module
from fastdeit.training.evaluate import evaluate
from fastdeit.training.loop import train_step
from fastdeit.training.session import Session, assemble

pytestmark = pytest.mark.slow  # as a whole

DISTILLED = "deit_tiny_distilled_patch16_224"
TRAINED = {
    "test_resnet": {"fc.", "layer4.0.bn2."},
    "regnety_002": {"head.fc.", "s4.b7.conv3.bn."},
    "resnet18": {"fc.", "layer4.1.bn2."},
    DISTILLED: {"head.", "head_dist."},
}
"""What of a model may move."""


def config_of(name: str) -> TrainConfig:
    """The demo's settings for a model whose classifier is trained, in batches of 8."""
    config = fill_recipe("demo", Path("x"))
    is_distilled = name == DISTILLED
    options: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 3} if is_distilled else {}
    return replace(
        config,
        data=replace(config.data, batch_size=8),
        model=type(config.model)(model=name, **options),
        distill=config.distill if is_distilled else type(config.distill)(),
        optim=replace(config.optim, trainable="classifier", weight_decay=0.1, ema_decay=0.9),
    )


def session_of(config: TrainConfig) -> Session:
    """A session on the CPU, with a teacher for a distilled model."""
    model = make_model(config.model, NUM_CLASSES, 64, seed=1)
    teacher = None
    if config.model.is_distilled:
        teacher = make_model(fill_recipe("demo-teacher", Path("x")).model, NUM_CLASSES, 64).eval()
    return assemble(config, model, teacher, choose_compute("cpu", "fp32"))


def take_steps(config: TrainConfig, session: Session, num_steps: int) -> None:
    """Train on noise."""
    for step in range(num_steps):
        batch = replace(make_batch(8, 64, step), step=step)
        train_step(config, session, augment(batch, config.augment, 0), 1e-2)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a checkpoint holds of a model."""
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("name", TRAINED)
def test_only_the_classifier_moves(name: str) -> None:
    """After three steps all else has the same bits, in the model and in its average."""
    config = config_of(name)
    session = session_of(config)
    before = snapshot(session.model)
    take_steps(config, session, 3)
    assert session.ema is not None
    for after in (session.model.state_dict(), session.ema.module.state_dict()):
        moved = {key for key, value in after.items() if not torch.equal(before[key], value)}
        assert moved == {key for key in before if key.startswith(tuple(TRAINED[name]))}


def test_the_running_averages_are_those_of_the_images() -> None:
    """The last batch norm follows its input as torch's does, and normalises with the batch."""
    config = config_of("test_resnet")
    session = session_of(config)
    norm: Any = last_batch_norm(session.model)
    seen: list[Tensor] = []
    norm.weight.data.fill_(1)  # timm begins with 0
    # ReLU works in place.
    norm.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output.clone())))
    mean = norm.running_mean.clone()
    take_steps(config, session, 1)
    given, normalised = seen
    expected = 0.9 * mean + 0.1 * given.mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, expected, atol=1e-6)
    assert norm.num_batches_tracked == 1
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-5
    assert normalised.detach().std() == pytest.approx(1, abs=0.1)
    assert not given.requires_grad  # nothing is computed backwards beyond it


def test_the_optimizer_holds_what_is_trained() -> None:
    """Its groups hold the trained parameters alone; matrices of them are decayed, others not."""
    session = session_of(config_of("test_resnet"))
    groups = {
        group["weight_decay"]: {id(p) for p in group["params"]}
        for group in session.optimizer.param_groups
    }
    named = dict(session.model.named_parameters())
    assert groups == {
        0.1: {id(named["fc.weight"])},
        0.0: {id(named[key]) for key in ("fc.bias", "layer4.0.bn2.weight", "layer4.0.bn2.bias")},
    }
    trained = {key for key, value in named.items() if value.requires_grad}
    assert trained == {"fc.weight", "fc.bias", "layer4.0.bn2.weight", "layer4.0.bn2.bias"}


@pytest.mark.parametrize("name", ["test_resnet", DISTILLED])
def test_evaluation_keeps_the_frozen_modes(name: str) -> None:
    """After an evaluation frozen layers are frozen still, and the others train."""
    session = session_of(config_of(name))
    modes = {key: module.training for key, module in session.model.named_modules()}
    assert set(modes.values()) == {True, False}
    evaluate(session.model, [make_batch(4, 64)], session.compute)
    assert {key: module.training for key, module in session.model.named_modules()} == modes


def test_an_evaluation_that_is_stopped_restores_the_modes() -> None:
    """As one that ends does; a stop in the middle of it is an exception."""
    session = session_of(config_of("test_resnet"))
    modes = {key: module.training for key, module in session.model.named_modules()}

    def batches() -> Iterator[Batch]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        evaluate(session.model, batches(), session.compute)
    assert {key: module.training for key, module in session.model.named_modules()} == modes


def test_the_shortcuts_batch_norm_is_not_meant() -> None:
    """RegNetY-16GF's last stage has one block, with a batch norm in its shortcut too."""
    with torch.device("meta"):
        model = timm.create_model("regnety_160")
    names = {module: name for name, module in model.named_modules()}
    norm = last_batch_norm(model)
    assert norm is not None
    assert names[norm] == "s4.b1.conv3.bn"
    assert last_batch_norm(timm.create_model("test_vit")) is None


def test_operations_of_a_frozen_model() -> None:
    """A forward pass, and backwards the gradients of the classifier's weights and input."""
    model = make_model(fill_recipe("demo-teacher", Path("x")).model, NUM_CLASSES, 64)
    own, classifier = forward_flops(model, 64), 2 * 96 * NUM_CLASSES
    assert train_flops(model, None, 64) == 3 * own
    num_all = num_parameters(model)
    set_trainable(model.train(), "classifier")
    assert train_flops(model, None, 64) == own + 2 * classifier
    assert num_parameters(model) == num_all
    assert [key for key, p in model.named_parameters() if p.grad is not None] == []


def test_a_model_without_a_classifier_is_refused() -> None:
    """There would be nothing to train."""
    with pytest.raises(UserError, match=r"trainable classifier needs a model with one\. Found: "):
        set_trainable(timm.create_model("test_resnet", num_classes=0), "classifier")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"drop_path": 0.1}),
        ("model", {"dropout": 0.1}),
        ("run", {"activation_checkpointing": True}),
    ],
)
def test_what_is_frozen_takes_no_options(part: str, change: dict[str, Any]) -> None:
    """Options of frozen layers have no effect, and are refused."""
    config = config_of(DISTILLED)
    with pytest.raises(UserError, match=r"has no effect with --trainable classifier.*Found: "):
        replace(config, **{part: replace(getattr(config, part), **change)})


def test_center_crops_are_those_of_evaluation(containers: dict[str, Path]) -> None:
    """--train-crop center cuts as evaluation does, at its ratio, in the order of training."""
    config = fill_recipe("demo-teacher", containers["beton"])
    data = replace(config.data, train_crop="center", eval_crop_ratio=0.9)
    index = open_dataset(containers["beton"])
    shown = train_plan(data, index, config.run)
    looked_at = eval_plan(index, 64, 0.9, 64)
    rules = [crop_rule(plan)._asdict() for plan in (shown, looked_at)]
    assert rules[0] == rules[1]
    first = next(iter(shown.steps(0))).samples
    assert not np.array_equal(first[:9], np.arange(9))


def options_of(containers: dict[str, Path], first: Path, out: Path, epochs: int) -> list[str]:
    """A run of 4 steps an epoch that fine-tunes at 80 pixels what was trained at 64."""
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    text = (
        f"--engine pil --threads 1 --batch-size 64 --repeats 1 --epochs {epochs} --warmup-epochs 0 "
        f"--image-size 80 --train-crop center --ema-decay 0.9 --log-every-steps 2 "
        f"--save-minutes 1e-6 --trainable classifier --resume auto --init-from {first}"
    )
    return ["train", "demo-teacher", *data, "--out", str(out), *text.split()]


@pytest.fixture(scope="module")
def first_run(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run at 64 pixels."""
    out = tmp_path_factory.mktemp("first") / "run"
    line = f"--out {out} --engine pil --threads 1 --epochs 1 --warmup-epochs 0".split()
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    assert main(["train", "demo-teacher", *data, *line]) == 0
    return out / "checkpoint.pt"


def moved_from(first: Path, out: Path) -> set[str]:
    """The names of what differs from the checkpoint that a run began with."""
    before = load_checkpoint(first)["model"]
    after = load_checkpoint(out / "checkpoint.pt")["model"]
    return {key for key, value in after.items() if not torch.equal(before[key], value)}


def test_a_stopped_run_ends_in_the_same_bits(
    containers: dict[str, Path],
    first_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in its sixth step, it goes on frozen as before; only the classifier has moved."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(options_of(containers, first_run, whole, 2)) == 0
    real, calls = train_module.train_step, 0

    def step(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "train_step", step)
        assert main(options_of(containers, first_run, half, 2)) == 130
    assert load_checkpoint(half / "checkpoint.pt")["position"]["step"] == 4
    assert main(options_of(containers, first_run, half, 2)) == 0
    assert_same_run(half, whole)
    moved = moved_from(first_run, whole)
    assert all(key.startswith(tuple(TRAINED["test_resnet"])) for key in moved)
    assert len(moved) == 7


@pytest.mark.slow
def test_two_processes(containers: dict[str, Path], first_run: Path, tmp_path: Path) -> None:
    """DDP takes a model that is frozen in part; the same tensors move."""
    out = tmp_path / "run"
    line = options_of(containers, first_run, out, 1)
    code, _, err = run_processes(2, *line, folder=tmp_path)
    assert code == 0, err
    assert len(moved_from(first_run, out)) == 7
