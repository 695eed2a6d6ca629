"""Every tensor of a step is on the GPU: found without one, by tensors that only pretend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import GPU, pretended_gpu
from nightly import nightly
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    unset_fake_temporarily,
)

from fastdeit.augment import (
    AugmentedBatch,
    apply_augmentation,
    augment,
    dense_targets,
    sample_augmentation,
)
from fastdeit.batch import Batch
from fastdeit.config import AugmentConfig, ModelConfig, TrainConfig
from fastdeit.machine.device import Compute
from fastdeit.models import make_model
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.training.ema import ModelEma
from fastdeit.training.evaluate import evaluate_all
from fastdeit.training.loop import loss_of, step_weights
from fastdeit.training.session import Session, assemble
from fastdeit.training.teacher import Teacher

pytestmark = pytest.mark.slow  # as a whole

NUM_CLASSES, SIDE = 11, 64
COMPUTE = Compute(GPU, torch.bfloat16, "a test")
POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m9-n3",
    "original",
    "originalr",
    "v0",
    "v0r",
    "3a",
    "ta_wide",
    "none",
)
VARIANTS: dict[str, dict[str, Any]] = {
    **{policy: {"auto_augment": policy} for policy in POLICIES},
    "jitter": {"auto_augment": "3a", "color_jitter": (0.4, 0.4, 0.4, 0.2)},
    "mix elem": {"mix_mode": "elem"},
    "mix pair": {"mix_mode": "pair"},
    "cutmix": {"mixup_alpha": 0.0},
    "minmax": {"cutmix_minmax": (0.2, 0.8)},
    "erase rand": {"erase_mode": "rand", "erase_prob": 1.0, "erase_count": 3},
    "erase const": {"erase_mode": "const", "erase_prob": 1.0},
    "prefetcher": {"augment_order": "timm-prefetcher"},
    "bilinear": {"augment_interpolation": "bilinear"},
    "random": {"augment_interpolation": "random"},
    "nothing": {
        "auto_augment": "none",
        "erase_prob": 0.0,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
    },
}


def batch_of(num: int, step: int = 0, side: int = SIDE) -> Batch:
    """A batch on the pretended GPU."""
    return Batch(
        torch.empty(num, side, side, 3, dtype=torch.uint8, device=GPU),
        torch.empty(num, dtype=torch.int64, device=GPU),
        np.arange(num, dtype=np.uint64) + 99 * step,
        np.zeros(num, dtype=np.int64),
        0,
        step,
    )


def test_two_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests rely on: a tensor of the host among those of the GPU is an error."""
    with pretended_gpu(monkeypatch):
        with pytest.raises(Exception, match=r"(same|different) device"):
            torch.empty(2, device=GPU) + torch.empty(2)
        with pytest.raises(DataDependentOutputException):
            torch.empty(2, device=GPU).sum().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=nightly)])
@pytest.mark.parametrize("name", VARIANTS)
def test_augmentation(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every policy, mode and order, with an odd batch too: nothing is on the host, nothing read."""
    config = replace(AugmentConfig(), **VARIANTS[name])
    with pretended_gpu(monkeypatch):
        for num in (7, 24):
            for step in range(3):  # Mixup, CutMix and others of what is drawn
                batch = batch_of(num, step)
                with unset_fake_temporarily():  # the host's own work
                    drawn = sample_augmentation(config, batch, 0)
                images, targets = apply_augmentation(batch, drawn, dtype)
                assert images.device.type == "cuda" and images.dtype == dtype
                assert images.shape == (num, 3, SIDE, SIDE)
                assert images.is_contiguous(memory_format=torch.channels_last)
                for target in (targets.labels, targets.partner_labels, targets.weight):
                    assert target.device.type == "cuda" and target.shape == (num,)
                assert dense_targets(targets, NUM_CLASSES, 0.1).device.type == "cuda"


def config_of(**parts: dict[str, Any]) -> TrainConfig:
    """The demo's student, small."""
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    run = {"compile": "off"} | parts.pop("run", {})
    config = changed(fill_recipe("demo", Path("x")), model=small, run=run)
    return changed(config, **parts)


def models_of(config: TrainConfig) -> tuple[nn.Module, nn.Module | None]:
    """The student and its teacher, which sees images of another size and normalisation."""
    student = make_model(config.model, NUM_CLASSES, SIDE)
    if config.distill.distillation == "none":
        return student, None
    theirs = make_model(ModelConfig(model="test_resnet"), NUM_CLASSES, SIDE)
    half = (0.5, 0.5, 0.5)
    return student, Teacher(theirs, SIDE // 2, half, half)


def session_of(
    config: TrainConfig, student: nn.Module, teacher: nn.Module | None
) -> tuple[Session, AugmentedBatch]:
    """What computes on the pretended GPU, and a batch for it."""
    there = None if teacher is None else COMPUTE.place(teacher)
    session = assemble(config, student, there, COMPUTE)
    return session, augment(batch_of(8), config.augment, 0, 0, torch.bfloat16)


SMALL_VIT = {"model": "deit_tiny_patch16_224"}
LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "hard": {},
    "soft": {"distill": {"distillation": "soft"}},
    "soft, top 5": {"distill": {"distillation": "soft", "teacher_top_k": 5}},
    "hard, smoothed, upstream": {
        "distill": {"teacher_smoothing": 0.1},
        "run": {"compat": "upstream"},
    },
    "soft, without a token": {"model": SMALL_VIT, "distill": {"distillation": "soft"}},
    "no teacher": {"model": SMALL_VIT, "distill": {"distillation": "none", "teacher": None}},
    "binary cross-entropy": {
        "model": SMALL_VIT,
        "distill": {"distillation": "none", "teacher": None},
        "optim": {"loss": "bce"},
        "augment": {"smoothing": 0.0},
    },
    "subset": {"model": {"drop_path": 0.5, "drop_path_mode": "subset"}},
    "drop path": {"model": {"drop_path": 0.5, "dropout": 0.1}},
    "checkpointing": {"run": {"activation_checkpointing": True}},
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward pass, teacher and loss of every kind, whole and in parts, AdamW and the average."""
    config = config_of(**LOSSES[name])
    models = models_of(config)
    with pretended_gpu(monkeypatch):
        session, batch = session_of(config, *models)
        weighed = replace(session, class_weights=torch.empty(NUM_CLASSES, device=GPU))
        weights = step_weights(config, weighed, batch)
        for part, own in ((batch, None), (batch, weights), *((p, None) for p in batch.parts(3))):
            with session.compute.autocast():
                loss = loss_of(config, session, part, own)
            assert isinstance(loss, FakeTensor) and loss.device.type == "cuda"
            assert (loss.dtype, loss.shape, loss.requires_grad) == (torch.float32, (), True)
        # The backward pass needs a real device.
        for weight in session.model.parameters():
            assert weight.device.type == "cuda"
            weight.grad = torch.empty_like(weight)
        session.optimizer.step()
        states = session.optimizer.state.values()
        moments = [value for state in states for value in state.values()]
        assert len(moments) > 10 and all(value.device.type == "cuda" for value in moments)


def test_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays on the GPU; nothing is read."""
    config = config_of()
    models = models_of(config)
    with pretended_gpu(monkeypatch):
        session, _ = session_of(config, *models)
        average = session.ema or ModelEma(session.model, 0.9)
        average.update()
        assert all(value.device.type == "cuda" for value in average.module.state_dict().values())


@pytest.mark.parametrize("model", ["deit_tiny_distilled_patch16_224", "test_resnet"])
def test_evaluation(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two sizes are counted on the GPU, and read once: at the end."""
    read: list[Tensor] = []

    def tolist(tensor: Tensor) -> list[list[float]]:
        read.append(tensor)
        return [[1.0] * tensor.shape[1]] * tensor.shape[0]

    def on_host(tensor: Tensor) -> NDArray[np.int64]:
        assert tensor.device.type == "cpu"
        return np.ones(tuple(tensor.shape), dtype=np.int64)

    config = replace(config_of().model, model=model)
    if model == "test_resnet":
        config = type(config)(model=model)
    monkeypatch.setattr(FakeTensor, "tolist", tolist, raising=False)
    monkeypatch.setattr(FakeTensor, "item", lambda _: 1.0, raising=False)
    network = make_model(config, NUM_CLASSES, SIDE)
    with pretended_gpu(monkeypatch):
        COMPUTE.place(network)
        evaluate_all([network], [batch_of(8), batch_of(5)], COMPUTE)
        assert len(read) == 1 and read[0].device.type == "cuda"
        # As numpy reads them, where classes are counted: on the host.
        monkeypatch.setattr(FakeTensor, "numpy", on_host, raising=False)
        counts = {"num_classes": NUM_CLASSES, "with_confusion": True}
        evaluate_all([network], [batch_of(8), batch_of(5)], COMPUTE, **counts)
