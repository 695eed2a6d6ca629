"""Options that change what a step computes: each does what it says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from augment_batches import make_batch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from fastdeit import UserError
from fastdeit.augment import AugmentedBatch, augment, sample_augmentation
from fastdeit.checkpoints.classes import Classes, numbered_classes
from fastdeit.config import OptimConfig, TrainConfig
from fastdeit.config.augment import AugmentConfig
from fastdeit.machine.device import choose_compute
from fastdeit.machine.distributed import World
from fastdeit.models import make_model
from fastdeit.recipes import fill_recipe
from fastdeit.training import loop as train_module
from fastdeit.training.loop import train, train_step
from fastdeit.training.optim import learning_rate, make_optimizer
from fastdeit.training.session import Session, make_session

pytestmark = pytest.mark.slow  # as a whole

NUM_CLASSES, BATCH = 11, 8
CLASSES = Classes(numbered_classes(NUM_CLASSES))


def config_of(optim: dict[str, Any] | None = None, **run: Any) -> TrainConfig:
    """The demo's transformer without its teacher, two blocks, for a batch of 8."""
    config = fill_recipe("demo", Path("x"))
    return replace(
        config,
        data=replace(config.data, batch_size=BATCH),
        model=replace(config.model, model="deit_tiny_patch16_224", depth=2, embed_dim=48),
        distill=type(config.distill)(),
        optim=replace(config.optim, **(optim or {})),
        run=replace(config.run, device="cpu", **run),
    )


def batch_of(config: TrainConfig) -> AugmentedBatch:
    """Eight images, augmented."""
    return augment(make_batch(BATCH, 64), config.augment, 0)


def step(config: TrainConfig, lr: float = 1e-3) -> tuple[Session, float]:
    """A session after one step, and the step's loss."""
    session = make_session(config, CLASSES)
    return session, train_step(config, session, batch_of(config), lr).item()


def gradients(session: Session) -> torch.Tensor:
    """All of them, one after another."""
    return torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_computes_in_it(name: Any) -> None:
    """Logits come in the dtype that was asked for; weights and gradients stay float32, and near."""
    config = config_of(precision=name)
    session = make_session(config, CLASSES)
    seen = []
    session.model.head.register_forward_hook(lambda *args: seen.append(args[2].dtype))  # type: ignore[union-attr, operator]
    loss = train_step(config, session, batch_of(config), 1e-3).item()
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[name]]
    expected, right_loss = step(config_of(precision="fp32"))
    assert loss == pytest.approx(right_loss, rel=1e-2)
    assert loss != right_loss
    assert session.scaler.is_enabled() == (name == "fp16")
    for parameter in session.model.parameters():
        assert parameter.dtype == torch.float32
    if name == "fp16":  # without clipping they stay scaled, here by 2^16
        assert session.scaler.get_scale() == 2**16
    scale = session.scaler.get_scale() if name == "fp16" else 1.0
    found = gradients(session) / scale
    assert nn.functional.cosine_similarity(found, gradients(expected), dim=0) > 0.999


def test_clipping_sees_unscaled_gradients() -> None:
    """With fp16 the norm is that of the loss's gradients, not of the scaled one's."""
    whole = gradients(step(config_of(precision="fp32"))[0]).norm().item()
    clipped, _ = step(config_of({"clip_grad": 100 * whole}, precision="fp16"))
    assert gradients(clipped).norm().item() == pytest.approx(whole, rel=1e-2)
    clipped, _ = step(config_of({"clip_grad": whole / 10}, precision="fp16"))
    assert gradients(clipped).norm().item() == pytest.approx(whole / 10, rel=1e-3)


def test_a_gradient_that_overflows_is_not_applied() -> None:
    """With fp16 such a step leaves the weights alone and halves the scale."""
    config = config_of(precision="fp16")
    session = make_session(config, CLASSES)
    before = copy.deepcopy(session.model.state_dict())
    session.scaler._init_scale = 2.0**60  # nothing has been scaled yet
    train_step(config, session, batch_of(config), 1e-3)
    assert all(torch.equal(value, before[key]) for key, value in session.model.state_dict().items())
    assert session.scaler.get_scale() == 2.0**59


def test_tf32_needs_a_gpu() -> None:
    """On a CPU it would have no effect."""
    with pytest.raises(UserError, match=r"precision tf32 needs a GPU. Found: device cpu. Pass"):
        choose_compute("cpu", "tf32")


@pytest.mark.slow
def test_compiled_is_as_eager() -> None:
    """On a CPU, torch.compile gives nearly the same loss and gradients."""
    eager, loss = step(config_of(compile="off"))
    compiled, found = step(config_of(compile="default"))
    assert compiled.forward is not compiled.model
    assert found == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gradients(compiled), gradients(eager), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mode", ["mask", "subset"])
def test_activations_are_computed_again(mode: Any) -> None:
    """The same loss and gradients to the bit, stochastic depth included, from less memory."""
    found: list[tuple[float, torch.Tensor, int]] = []
    for asked in (False, True):
        config = config_of(activation_checkpointing=asked)
        model = replace(config.model, drop_path=0.4, drop_path_mode=mode, dropout=0.1)
        config = replace(config, model=model)
        session, batch = make_session(config, CLASSES), batch_of(config)
        num_bytes = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal num_bytes
            num_bytes += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            train_module.loss_of(config, session, batch)
        loss = train_step(config, session, batch, 1e-3).item()
        found.append((loss, gradients(session), num_bytes))
    (first, gradient, most), (second, same, least) = found
    assert first == second
    assert torch.equal(gradient, same)
    assert least < most / 3


def test_running_averages_move_once() -> None:
    """Computing activations again would move batch norm's averages twice a step: refused."""
    config = fill_recipe("demo-teacher", Path("x"))
    config = replace(config, run=replace(config.run, activation_checkpointing=True))
    with pytest.raises(UserError, match=r"twice a step. Found: test_resnet. Leave out"):
        make_session(config, CLASSES)


def test_lamb_is_timms() -> None:
    """Three steps of our LAMB are those of the one that timm's factory makes, clipping included."""
    config = OptimConfig(optimizer="lamb", base_lr=4e-3, scale_lr=False, weight_decay=0.02)
    model = make_model(config_of().model, NUM_CLASSES, 64)
    theirs = copy.deepcopy(model)
    factory = create_optimizer_v2(theirs, opt="lamb", lr=4e-3, weight_decay=0.02, eps=1e-8)
    for one, optimizer in ((model, make_optimizer(model, config, BATCH)), (theirs, factory)):
        images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            optimizer.zero_grad()
            (one(images).square().sum() * 10).backward()
            optimizer.step()
    for (name, ours), right in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, right), name


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lamb"])
def test_weight_decay_shrinks_matrices(kind: Any) -> None:
    """After a step without a gradient a matrix is smaller by the decay, a bias is as it was."""
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model)
    config = OptimConfig(optimizer=kind, base_lr=0.1, scale_lr=False, weight_decay=0.2)
    optimizer = make_optimizer(model, config, 8)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model.bias, before.bias)
    if kind == "lamb":  # the ratio of its norms makes it a step of the weights' own length
        assert torch.allclose(model.weight, before.weight * 0.9)
    elif kind == "sgd":  # Nesterov's: the decay is a gradient
        assert torch.allclose(model.weight, before.weight * (1 - 0.1 * 0.2 * 1.9))
    else:
        assert torch.allclose(model.weight, before.weight * (1 - 0.1 * 0.2))


def test_every_option_of_the_schedule() -> None:
    """With no value at its default the rates are timm's."""
    config = OptimConfig(
        epochs=10, base_lr=0.3, scale_lr=False, min_lr=0.02, warmup_epochs=2.5, warmup_lr=0.01
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = CosineLRScheduler(
        optimizer, t_initial=40, lr_min=0.02, warmup_t=10, warmup_lr_init=0.01, t_in_epochs=False
    )
    for at in range(40):
        schedule.step_update(at)
        found = learning_rate(config, 4096, at, 4)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), at
    scaled = replace(config, scale_lr=True)
    assert learning_rate(scaled, 1024, 10, 4) - 0.02 == pytest.approx(
        (learning_rate(config, 1024, 10, 4) - 0.02) * (0.6 - 0.02) / (0.3 - 0.02)
    )


class Caught(Exception):
    """Ends a run at the place of interest."""


@pytest.mark.parametrize(("compat", "word"), [("none", 0), ("upstream", 3)])
def test_upstream_mixes_by_the_process(
    compat: Any, word: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code draws Mixup or CutMix in each process; here all draw the same."""
    config = config_of(compat=compat, out=tmp_path)
    session = replace(make_session(config, CLASSES), world=World(rank=3))
    found = []

    def augmented(*args: Any) -> None:
        found.append(args[-1])
        raise Caught

    monkeypatch.setattr(train_module, "augmented", augmented)
    batches: Any = type("Batches", (), {"__len__": lambda _: 4, "load_state_dict": lambda *_: None})
    with pytest.raises(Caught):
        train(config, session, batches(), batches())
    assert found == [word]


def test_each_process_of_upstream_draws_its_own_mix() -> None:
    """Another number of the process, another weight for a whole batch."""
    batch, config = make_batch(BATCH), AugmentConfig()
    one, two = (sample_augmentation(config, batch, 0, rank).mix for rank in (0, 1))
    assert one is not None
    assert two is not None
    assert one.weight[0] != two.weight[0]
