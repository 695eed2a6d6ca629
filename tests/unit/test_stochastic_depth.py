"""Stochastic depth on a subset: what it computes, what it adds, and that it is timm's otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_waits import DEVICES, no_waiting
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fastdeit.config import ModelConfig
from fastdeit.models import make_model
from fastdeit.models.stochastic_depth import SubsetBlock, add_for_subset, num_kept

WIDTH = 24


def blocks_of(**options: Any) -> tuple[SubsetBlock, Block]:
    """Ours and timm's with the same weights, in training mode."""
    torch.manual_seed(0)
    ours, theirs = SubsetBlock(WIDTH, 3, **options), Block(WIDTH, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train()


def tiny(mode: Any, **options: Any) -> nn.Module:
    """A DeiT of 3 blocks for 32 pixels."""
    config = ModelConfig(
        model="deit_tiny_patch16_224",
        depth=3,
        embed_dim=WIDTH,
        num_heads=3,
        drop_path_mode=mode,
        **{"drop_path": 0.5, **options},
    )
    return make_model(config, 5, 32)


@pytest.mark.parametrize("init_values", [None, 0.3])
def test_rate_0_is_timms_block(init_values: float | None) -> None:
    """Without a rate the outputs and gradients are timm's to the bit, with LayerScale too."""
    ours, theirs = blocks_of(drop_path=0.0, init_values=init_values)
    x = torch.randn(4, 5, WIDTH)
    found, expected = ours(x), theirs(x)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad), name


def test_evaluation_is_timms_block() -> None:
    """In evaluation nothing is dropped, and nothing is drawn."""
    ours, theirs = blocks_of(drop_path=0.5)
    x = torch.randn(4, 5, WIDTH)
    state = torch.get_rng_state()
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("batch", "rate", "kept"),
    [
        (8, 0.5, 4),
        (8, 0.1, 7),
        (8, 0.3, 5),
        (100, 0.9, 10),  # 9.999999999999998 in floating point
        (3, 0.9, 1),
        (1, 0.5, 1),
        (8, 0.0, 8),
    ],
)
def test_only_the_kept_are_computed(batch: int, rate: float, kept: int) -> None:
    """Attention and MLP see max(1, floor(B (1 - p))) samples, and only those change."""
    block, _ = blocks_of(drop_path=rate)
    seen: dict[str, int] = {}

    def remember(name: str) -> Any:
        return lambda _module, inputs, _output: seen.update({name: inputs[0].shape[0]})

    for name in ("attn", "mlp"):
        getattr(block, name).register_forward_hook(remember(name))
    block(torch.randn(batch, 5, WIDTH))
    assert seen == {"attn": kept, "mlp": kept}
    assert num_kept(batch, rate) == kept
    x = torch.randn(batch, 2, 3)
    changed = (add_for_subset(x, torch.ones_like, rate) != x).all(dim=(1, 2))
    assert changed.sum() == kept


def test_expectation_is_the_whole_branch() -> None:
    """Averaged over many draws the block adds what it adds without dropping."""
    torch.manual_seed(1)
    x, update = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    draws = 4000
    total = torch.zeros_like(x)
    for _ in range(draws):
        # The branch sees some rows of x; their numbers are in what it sees.
        numbered = x.clone()
        numbered[:, 0, 0] = torch.arange(5.0)
        total += add_for_subset(numbered, lambda rows: update[rows[:, 0, 0].long()], 0.4) - numbered
    error = (total / draws - update).abs() / update.abs()
    # 3 of 5 are kept and scaled by 5 / 3: a standard deviation of 0.82 in each draw.
    assert error.max() < 5 * 0.82 / draws**0.5, error.max()


def test_subsets_are_fair_and_independent() -> None:
    """Every sample is kept equally often, and the two branches do not share their subset."""
    block, _ = blocks_of(drop_path=0.5)
    torch.manual_seed(2)
    for branch in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(branch.weight)
    nn.init.ones_(block.attn.proj.bias)
    nn.init.constant_(block.mlp.fc2.bias, 100.0)
    counts, both = torch.zeros(2, 6), torch.zeros(6)
    draws = 2000
    with torch.no_grad():
        for _ in range(draws):
            added = block(torch.zeros(6, 1, WIDTH))[:, 0, 0]
            kept = torch.stack((added % 200 > 1, added > 100))
            counts += kept
            both += kept.all(0)
    assert (counts / draws - 0.5).abs().max() < 0.06
    assert (both / draws - 0.25).abs().max() < 0.06


def test_gradients_reach_everything() -> None:
    """Each parameter gets a gradient, the input one of the kept branches and of the residual."""
    block, _ = blocks_of(drop_path=0.5, init_values=0.5)
    x = torch.randn(8, 5, WIDTH, requires_grad=True)
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_gradients_through_the_branch() -> None:
    """A kept sample's gradient is that of the residual and of its scaled branch; others' is 1."""
    x = torch.randn(6, 2, 3, requires_grad=True)
    output = add_for_subset(x, lambda rows: 3 * rows, 0.5)
    output.sum().backward()
    kept = (output != x).any(dim=2).any(dim=1)
    assert kept.sum() == 3
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(kept, 1 + 2 * 3.0, 1.0)[:, None, None].expand(6, 2, 3))


def test_the_seed_decides() -> None:
    """The same seed of torch's generator gives the same bits, another one others."""
    model = tiny("subset").train()
    images = torch.randn(6, 3, 32, 32)
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(model(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_names_and_first_weights_are_timms() -> None:
    """Checkpoints go both ways: the same names, and from a seed the same weights."""
    ours, theirs = tiny("subset").state_dict(), tiny("mask").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_compiled_equals_eager() -> None:
    """torch.compile traces the block whole, and draws and computes the same."""
    block, _ = blocks_of(drop_path=0.5)
    compiled: Any = torch.compile(block, backend="eager", fullgraph=True)
    x = torch.randn(8, 5, WIDTH)

    def run(call: Any) -> Tensor:
        torch.manual_seed(5)
        output: Tensor = call(x)
        return output

    expected = run(block)
    assert not torch.equal(expected, run(block.eval()))
    block.train()
    assert torch.equal(run(compiled), expected)


def test_under_autocast() -> None:
    """The stream keeps its dtype under bf16 autocast, as it does in timm."""
    ours, theirs = blocks_of(drop_path=0.5)
    x = torch.randn(4, 5, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype == torch.float32
        assert ours(x.bfloat16()).dtype == theirs(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("mode", ["mask", "subset"])
def test_rates_over_the_depth(mode: Any) -> None:
    """Linear rates begin at 0 and end at the one given; constant ones are the same in all."""
    for decay, expected in (("linear", [0.0, 0.25, 0.5]), ("constant", [0.5, 0.5, 0.5])):
        model: Any = tiny(mode, drop_path_decay=decay)
        for layer in ("drop_path1", "drop_path2"):
            found = [getattr(block, layer) for block in model.blocks]
            assert [getattr(f, "drop_prob", 0.0) for f in found] == pytest.approx(expected)
            assert all(isinstance(f, DropPath) for f in found[1:])
        assert all(isinstance(block, SubsetBlock) == (mode == "subset") for block in model.blocks)


@pytest.mark.parametrize("name", DEVICES)
def test_no_wait_for_the_device(name: str) -> None:
    """On a GPU neither pass synchronises with the host."""
    device = torch.device(name)
    model = tiny("subset").to(device).train()
    images = torch.randn(8, 3, 32, 32, device=device)
    model(images).sum().backward()
    with no_waiting(device):
        model(images).sum().backward()
