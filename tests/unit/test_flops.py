"""Operations are the paper's, the model is left alone, and peaks say where they come from."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from fastdeit.config import ModelConfig
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.models import make_model, set_distilled_training
from fastdeit.models.flops import (
    datasheet_peak,
    forward_flops,
    matrix_flops,
    peak_flops,
    precision_of,
    train_flops,
)

pytestmark = pytest.mark.slow  # as a whole

CPU = choose_compute("cpu", "fp32")


def deit(name: str, size: int = 224) -> nn.Module:
    """A model without numbers: only its structure is counted."""
    with torch.device("meta"):
        return make_model(ModelConfig(model=name), 1000, size)


@pytest.mark.parametrize(
    ("name", "size", "gmacs"),
    [
        ("deit_tiny_patch16_224", 224, 1.26),
        ("deit_small_patch16_224", 224, 4.61),
        ("deit_base_patch16_224", 224, 17.58),
        ("deit_base_patch16_384", 384, 55.54),
        ("deit_tiny_distilled_patch16_224", 224, 1.27),
        ("deit_base_distilled_patch16_224", 224, 17.67),
        ("regnety_160", 224, 15.96),
        ("resnet50", 224, 4.11),
    ],
)
def test_the_published_operations(name: str, size: int, gmacs: float) -> None:
    """Half of the operations are the GMACs of the model cards, less the norms' 1% at most."""
    counted = forward_flops(deit(name, size), size) / 2e9
    assert 0.99 * gmacs < counted <= gmacs + 0.005


def test_attention_is_counted() -> None:
    """Exactly: patches, 12 blocks with attention over 197 tokens, and the head, of DeiT-Ti."""
    tokens, dim = 197, 192
    block = tokens * 12 * dim**2 + 2 * tokens**2 * dim
    macs = 196 * 768 * dim + 12 * block + 1000 * dim
    assert forward_flops(deit("deit_tiny_patch16_224"), 224) == 2 * macs


def test_the_model_is_left_alone() -> None:
    """Weights, statistics, modes, buffers and gradients stay; nothing is allocated for it."""
    model = timm.create_model("test_resnet", num_classes=7).train()
    model.register_parameter("shared", model.get_classifier().weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    model(images).sum().backward()
    after_step = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: value.grad for name, value in model.named_parameters()}
    forward_flops(model, 32)
    assert model.training
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
    assert all(torch.equal(value, after_step[k]) for k, value in model.state_dict().items())
    assert all(value.grad is grads[name] for name, value in model.named_parameters())
    assert before.keys() == after_step.keys()


def test_no_number_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model too large to hold twice can be counted: no tensor of it is copied."""

    def refuse(self: Tensor, memo: object) -> Tensor:
        raise AssertionError(f"copied a tensor of shape {tuple(self.shape)}")

    model = timm.create_model("test_resnet", num_classes=7)
    model.plain = torch.ones(5)  # neither a parameter nor a buffer
    monkeypatch.setattr(Tensor, "__deepcopy__", refuse)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    assert forward_flops(model, 32) > 0


def test_wrapped_and_distilled_models_count_the_same() -> None:
    """torch.compile, its method, half precision and both heads in training change nothing."""
    model = make_model(
        ModelConfig(model="deit_tiny_distilled_patch16_224", depth=1, embed_dim=64, num_heads=2),
        5,
        32,
    )
    plain = forward_flops(model, 32)
    set_distilled_training(model)
    model.train()
    assert forward_flops(model, 32) == plain
    assert forward_flops(torch.compile(model), 32) == plain  # type: ignore[arg-type]
    model.compile()
    assert forward_flops(model.half(), 32) == plain


def test_training_is_three_forward_passes_and_the_teachers() -> None:
    """The student counts three times, the teacher once."""
    student, teacher = deit("deit_tiny_patch16_224"), deit("resnet18")
    own, taught = forward_flops(student, 224), forward_flops(teacher, 224)
    assert train_flops(student, None, 224) == 3 * own
    assert train_flops(student, teacher, 224) == 3 * own + taught


@pytest.mark.parametrize(
    ("name", "precision", "family", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", "H100 SXM", 989.5),
        ("NVIDIA H100 PCIe", "fp16", "H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", "tf32", "H100 NVL", 417.5),
        ("NVIDIA H200", "bf16", "H200 SXM", 989.5),
        ("NVIDIA A100-SXM4-40GB", "fp32", "A100", 19.5),
        ("NVIDIA A100 80GB PCIe", "bf16", "A100", 312),
        ("A100-PCIE-40GB", "bf16", "A100", 312),
        ("NVIDIA L4", "bf16", "L4", 121),
        ("NVIDIA L40S", "bf16", "L40S", 362),
        ("Tesla V100-SXM2-32GB", "fp16", "V100 SXM2", 125),
        ("Tesla V100-PCIE-16GB", "fp16", "V100 PCIe", 112),
        ("Tesla T4", "fp16", "T4", 65),
    ],
)
def test_datasheets(name: str, precision: str, family: str, tflops: float) -> None:
    """The driver's names of GPUs find their own row."""
    assert datasheet_peak(name, precision) == (family, tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "bf16"),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16"),
        ("NVIDIA A10G", "bf16"),
        ("Tesla V100-SXM2-32GB", "bf16"),
        ("A GPU of next year", "bf16"),
    ],
)
def test_relatives_of_known_gpus_are_not_known(name: str, precision: str) -> None:
    """What is not in the table is not guessed."""
    assert datasheet_peak(name, precision)[1] is None


def test_precision() -> None:
    """Autocast decides, else the way of float32 products on a GPU."""
    gpu = torch.device("cuda")
    assert precision_of(Compute(gpu, torch.bfloat16, "")) == "bf16"
    assert precision_of(Compute(gpu, torch.float16, "")) == "fp16"
    assert precision_of(Compute(gpu, None, "")) == "fp32"
    assert precision_of(Compute(gpu, None, "", uses_tf32=True)) == "tf32"
    assert precision_of(CPU) == "fp32"


def test_a_gpu_of_the_table_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of a known GPU is its datasheet's."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    peak = peak_flops(Compute(torch.device("cuda"), torch.bfloat16, ""))
    assert peak.flops_per_s == 989.5e12
    assert peak.source == "datasheet of H200 SXM, dense bf16"


def test_what_is_not_in_the_table_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a matrix product is timed, and the source says so."""
    sides: list[int] = []

    def fake(compute: Compute, side: int) -> float:
        sides.append(side)
        return 5e9

    monkeypatch.setattr("fastdeit.models.flops.matrix_flops", fake)
    peak = peak_flops(CPU)
    assert (peak.flops_per_s, sides) == (5e9, [2048])
    assert peak.source == "measured: 2048^3 matrix product in fp32"


def test_the_rate_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operations a multiply-add over the shortest round, by a clock that is known."""
    # Each round reads the clock twice: 8, 4, 2, 4 and 8 seconds.
    ticks = iter([0, 8, 10, 14, 20, 22, 30, 34, 40, 48])
    monkeypatch.setattr("fastdeit.models.flops.time.perf_counter", lambda: next(ticks))
    assert matrix_flops(CPU, 16) == 2 * 16**3 / 2


def test_every_family_has_a_rate_in_operations() -> None:
    """No row mixes up units: the slowest GPU does 8 TFLOP/s, the fastest 2,250."""
    from fastdeit.models.flops import _FAMILIES

    rates = [rate for _, rates in _FAMILIES.values() for rate in rates.values()]
    assert min(rates) > 7
    assert max(rates) == 2250
