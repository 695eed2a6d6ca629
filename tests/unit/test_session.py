"""What computes in a run: compiled where asked, activations computed again, precisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from augment_batches import NUM_CLASSES, make_batch
from torch import nn

from fastdeit import UserError
from fastdeit.augment import augment
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.machine.torch_compile import begin_compiling
from fastdeit.models import make_model
from fastdeit.recipes import fill_recipe
from fastdeit.training.loop import train_step
from fastdeit.training.session import assemble


@pytest.mark.parametrize(
    ("mode", "device", "is_compiled"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("default", "cpu", True),
        ("reduce-overhead", "cuda", True),
        ("off", "cuda", False),
    ],
)
def test_the_model_is_compiled_as_in_training(mode: Any, device: str, is_compiled: bool) -> None:
    """On a GPU unless switched off, on a CPU only when asked for; nothing is compiled here yet."""
    config = fill_recipe("demo-teacher", Path("x"))
    config = replace(config, run=replace(config.run, compile=mode))
    model = nn.Linear(2, 2)
    forward = begin_compiling(config, Compute(torch.device(device), None, ""))(model)
    assert (forward is not model) == is_compiled
    assert getattr(forward, "_orig_mod", model) is model


@pytest.mark.parametrize("name", ["test_resnet", "deit_tiny_patch16_224"])
def test_images_in_autocasts_precision_change_no_bit(name: str) -> None:
    """The first layer rounds float32 images to bf16 itself: three steps give the same weights."""
    config = fill_recipe("demo-teacher", Path("x"))
    config = replace(
        config,
        data=replace(config.data, batch_size=8),
        model=replace(config.model, model=name),
    )
    compute = choose_compute("cpu", "bf16")
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(config.model, NUM_CLASSES, 64, seed=1)
        session = assemble(config, model, None, compute)
        for step in range(3):
            batch = replace(make_batch(8, 64, step), step=step)
            train_step(config, session, augment(batch, config.augment, 0, 0, dtype), 1e-3)
        ends.append(session.model.state_dict())
    fresh = make_model(config.model, NUM_CLASSES, 64, seed=1).state_dict()
    assert any(not torch.equal(value, ends[0][key]) for key, value in fresh.items())
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_processes_of_a_machine_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU named for all is refused; left to them, one that finds none of its own says so."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert choose_compute("cuda", "bf16", local_rank=1).device == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"must not share a GPU. Found: device cuda:0 for all"):
        choose_compute("cuda:0", "bf16", local_rank=1)
    with pytest.raises(UserError, match=r"needs a GPU of its own. Found: process 3 and 2 GPUs"):
        choose_compute("auto", "bf16", local_rank=2)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_a_gpu_without_bf16_takes_fp16(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless told otherwise: a V100 emulates bf16."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    compute = choose_compute()
    assert compute.reason == f"cuda:0 (a GPU is there), {name} autocast"
    assert compute.scales_loss == (name == "fp16")
    assert choose_compute("cuda", "bf16").autocast_dtype == torch.bfloat16
