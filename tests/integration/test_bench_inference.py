"""`fastdeit bench table5` and `resolutions`: the largest batch, the protocols, what goes wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fastdeit.benchmarks.cases.inference.architectures import (
    Architecture,
    at_resolution,
    find_architecture,
    table5_architectures,
)
from fastdeit.benchmarks.cases.inference.command import InferenceJob, Protocol, Sizes
from fastdeit.benchmarks.cases.inference.forward import Fit, Forward, Network, Way, largest_batch
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.benchmarks.reporting.table import format_table
from fastdeit.machine.device import choose_compute
from fastdeit.measured.rows import Row
from fastdeit.paper import table5
from fastdeit.paper.figure1 import plot_figure1, rates_by_protocol
from fastdeit.tools.cli import main

pytestmark = pytest.mark.usefixtures("parts_here")

CPU = torch.device("cpu")
VIT = Architecture(label="small vit", model="test_vit", image_size=32)
RESNET = Architecture(label="small resnet", model="test_resnet", image_size=32)
FP32: tuple[Protocol, ...] = ("fp32",)

Hook = Callable[[int], None]


@pytest.fixture
def before_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook], None]:
    """A function that lets something happen in each forward pass of a transformer."""
    real = VisionTransformer.forward

    def set_hook(hook: Hook) -> None:
        def forward(self: VisionTransformer, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if x.device.type != "meta":  # as while operations are counted
                hook(len(x))
            return real(self, x, *args, **kwargs)

        monkeypatch.setattr(VisionTransformer, "forward", forward)

    return set_hook


def sizes(**changed: Any) -> Sizes:
    """Few and small batches."""
    return replace(Sizes(rounds=2, max_batch_size=2), **changed)


def run_of(
    architectures: list[Architecture],
    protocols: tuple[Protocol, ...] = FP32,
    out: Path | None = None,
    **changed: Any,
) -> BenchRun:
    """Measure on the CPU."""
    with BenchRun(out) as run:
        job = InferenceJob("table5", architectures, protocols, "cpu", sizes(**changed))
        run.measure(job.part())
        run.end()
    return run


# ---- the largest batch ---------------------------------------------------------------------------
def test_the_largest_batch_is_found() -> None:
    """To an eighth of the power of two below it, exactly up to 15; nothing above it is returned."""
    for limit in range(1, 300):
        fit = largest_batch(lambda size, limit=limit: 0.0 if size <= limit else None, 1024)
        assert fit.stopped_by == "memory"
        step = max(1, (1 << (limit.bit_length() - 1)) // 8)
        assert fit.batch_size == limit // step * step, limit


def test_the_search_ends() -> None:
    """At the cap, which need not be a power of two, at a limit of time, and at no image at all."""
    tried: list[int] = []

    def seconds_of(size: int) -> float:
        tried.append(size)
        return 0.01 * size

    assert largest_batch(seconds_of, 6) == Fit(6, "cap")
    assert tried == [1, 2, 4, 6]
    assert largest_batch(seconds_of, 64, batch_s=0.1) == Fit(8, "time")
    assert largest_batch(lambda _: None, 64) == Fit(0, "memory")
    assert largest_batch(lambda size: 0.0 if size < 5 else None, 6) == Fit(4, "memory")


def test_batches_that_do_not_fit(before_forward: Callable[[Hook], None]) -> None:
    """The largest batch that fits is measured; one image that does not is said, others go on."""
    limit = 13

    def hook(num: int) -> None:
        if num > limit:
            raise torch.OutOfMemoryError(f"{num} images")

    before_forward(hook)
    (row,) = run_of([VIT], max_batch_size=64).rows
    assert row.batch_size == 13
    assert "the largest batch that fits" in (row.note or "")
    limit = 0
    run = run_of([VIT, RESNET])
    assert [row.name for row in run.rows] == ["small resnet, fp32"]
    (why,) = run.failed.values()
    assert "\n" not in why
    assert "Found: 1 of test_vit at 32 px, too much for cpu" in why
    assert "no batch above 2 was tried" in (run.rows[0].note or "")
    run = run_of([VIT], batch_size=3)
    assert "Found: 3 of test_vit" in next(iter(run.failed.values()))


def test_a_batch_that_fitted_once(before_forward: Callable[[Hook], None]) -> None:
    """Where chosen kernels need more memory the batch is made smaller; switches are put back."""

    def hook(num: int) -> None:
        if num > (10 if torch.backends.cudnn.benchmark else 13):
            raise torch.OutOfMemoryError(f"{num} images")

    before_forward(hook)
    switches = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = switches[0].benchmark, switches[0].allow_tf32
    (row,) = run_of([VIT], max_batch_size=64).rows
    assert row.batch_size == 10
    assert "less what the kernels' work space takes" in (row.note or "")
    assert (switches[0].benchmark, switches[0].allow_tf32) == before
    assert torch.get_float32_matmul_precision() == switches[1]


def test_other_errors(before_forward: Callable[[Hook], None]) -> None:
    """A size that a library refuses ends the search; a model that never runs is one line."""
    limit = 5

    def hook(num: int) -> None:
        if num > limit:
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nfirst seen at ...")

    before_forward(hook)
    (row,) = run_of([VIT], max_batch_size=64).rows
    assert row.batch_size == 5
    assert "a larger batch fails: CUDNN_STATUS_NOT_SUPPORTED;" in (row.note or "")
    limit = 0
    run = run_of([VIT, RESNET])
    assert list(run.failed) == ["table5: small vit, fp32"]
    assert "Found: CUDNN_STATUS_NOT_SUPPORTED. " in run.failed["table5: small vit, fp32"]
    assert len(run.rows) == 1


# ---- what a row says -----------------------------------------------------------------------------
def test_a_planted_sleep_is_found(before_forward: Callable[[Hook], None]) -> None:
    """4 images in 200 ms and a little are a little fewer than 20 a second; the mean says so too."""
    before_forward(lambda _: time.sleep(0.2))
    (row,) = run_of([VIT], batch_size=4).rows
    assert 5 < row.median < 20
    assert row.mean == pytest.approx((row.p20 + row.p80) / 2)  # of two rounds
    assert row.bound is not None and row.frac_of_bound == row.median / row.bound


def test_protocols_are_rows_of_their_own() -> None:
    """bf16 is compared with fp32, says how it was run, and TF32 needs a GPU."""
    run = run_of([VIT, RESNET], ("fp32", "tf32", "bf16"))
    assert list(run.failed.values()) == [
        "protocol tf32 needs a GPU. Found: device cpu. Leave it out of --protocols."
    ]
    by_name = {row.name: row for row in run.rows}
    assert list(by_name) == [
        f"small {kind}, {protocol}" for kind in ("vit", "resnet") for protocol in ("fp32", "bf16")
    ]
    for kind in ("vit", "resnet"):
        paper, modern = by_name[f"small {kind}, fp32"], by_name[f"small {kind}, bf16"]
        assert (paper.note or "").startswith("fp32 weights, contiguous (NCHW), eager; ")
        assert paper.ratio is None and modern.baseline == paper.name
        assert modern.ratio == pytest.approx(modern.median / paper.median)
        assert (paper.note or "").count("autocast") == 0
        # The two or, for a convnet, four ways that were tried.
        assert (modern.note or "").count("eager") == (4 if kind == "resnet" else 2)
        assert paper.bound_what != modern.bound_what
        assert (paper.gmacs, paper.params_m) == (modern.gmacs, modern.params_m)
        assert modern.settings["protocol"] == "bf16"


@pytest.mark.parametrize("architecture", [VIT, RESNET])
def test_every_way_computes_the_same(architecture: Architecture) -> None:
    """Logits of each way of bf16 are those of float32, within bf16's precision."""
    network = Network.of(architecture, CPU)
    images = Forward(network, Way(), choose_compute("cpu")).images(4)
    expected = Forward(network, Way(), choose_compute("cpu"))(images)
    ways = sorted(network.ways("bf16"), key=lambda way: str(way.weights) == "torch.bfloat16")
    for way in ways:  # those that round the weights come last
        forward = Forward(network, way, choose_compute("cpu", "bf16"))
        given = forward.images(4).copy_(images)
        found = forward(given)
        assert found.dtype == torch.bfloat16
        assert given.is_contiguous(memory_format=way.memory_format)
        error = (found.float() - expected).norm() / expected.norm()
        assert 0 < error < 0.03, f"{way}: relative difference {error:.4f}"


@pytest.mark.slow
def test_compiled() -> None:
    """The compiled protocol works on what it says, and computes the same."""
    network = Network.of(VIT, CPU)
    expected = Forward(network, Way(), choose_compute("cpu"))
    images = expected.images(2)
    logits = expected(images)
    (way,) = network.ways("bf16-compiled")
    forward = Forward(network, way, choose_compute("cpu", "bf16"))
    found = forward(forward.images(2).copy_(images))
    assert (found.float() - logits).norm() / logits.norm() < 0.03
    run = run_of([VIT], ("bf16-compiled",))
    assert (run.rows[0].note or "").startswith("bf16 weights, channels-last (NHWC), compiled; ")


# ---- what is measured ----------------------------------------------------------------------------
def test_architectures() -> None:
    """25 measurements stand for all 32 rows; names are the paper's, in any case, or timm's."""
    found = table5_architectures()
    assert len(found) == 25
    assert {name for each in found for name in (each.label, *each.also)} == {
        row.name for row in table5()
    }
    b384 = find_architecture("vit-b/16")
    assert (b384.label, b384.also) == ("DeiT-B 384", ("ViT-B/16",))
    assert find_architecture("DEIT-TI DISTILLED, 1000 epochs") == find_architecture(
        "deit_tiny_distilled_patch16_224"
    )
    assert find_architecture("efficientnet_b8").image_size == 800  # the paper's, not timm's
    other = find_architecture("test_resnet")
    assert (other.image_size, other.paper) == (160, None)
    assert (at_resolution(320).paper, at_resolution(256).paper) == (134.13, None)


def test_shared_rows_are_all_in_the_figure(tmp_path: Path) -> None:
    """One measurement of an architecture is a point for each row of the paper."""
    rows = [
        Row(
            case="table5",
            name=each.label,
            unit="img/s",
            n=1,
            median=5 * (each.paper or 0),
            p20=1,
            p80=1,
            model=each.model,
            image_size=each.image_size,
            settings={"protocol": "fp32"},
        )
        for each in table5_architectures()
    ]
    (rates,) = rates_by_protocol(rows).values()
    assert rates.keys() == {row.name for row in table5()}
    assert rates["DeiT-S distilled, 1000 epochs"] == 5 * 936.2
    plot_figure1(rows, tmp_path / "figure1.png")
    assert (tmp_path / "figure1.png").read_bytes()[:4] == b"\x89PNG"
    plot_figure1([replace(rows[0], model="test_vit")], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    row = replace(rows[0], paper=100.0, median=250.0, batch_size=8, gmacs=1.5)
    header, line = format_table([row]).splitlines()
    assert header.endswith("batch  GMACs  paper V100  x V100")
    assert line.split()[-4:] == ["8", "1.50", "100", "2.5"]


# ---- a stop, and a limit of time -----------------------------------------------------------------
def test_a_stopped_run_goes_on(tmp_path: Path, before_forward: Callable[[Hook], None]) -> None:
    """Rows of the same command are not measured again; other rounds or batches are."""
    second = replace(VIT, label="another vit")
    calls = 0
    is_stopped = False

    def hook(num: int) -> None:
        nonlocal calls
        calls += 1
        if is_stopped and calls > 8:
            raise KeyboardInterrupt

    before_forward(hook)
    is_stopped = True
    # Up to two images: three forward passes for the batch and three timed, then the second model's.
    with pytest.raises(KeyboardInterrupt):
        run_of([VIT, second], out=tmp_path / "out")
    is_stopped, calls = False, 0
    kept = json.loads((tmp_path / "out" / "rows.jsonl").read_text())
    run = run_of([VIT, second], out=tmp_path / "out")
    assert calls == 6
    assert [row.name for row in run.rows] == ["small vit, fp32", "another vit, fp32"]
    assert run.rows[0].median == kept["median"]
    for changed in ({"rounds": 3}, {"batch_size": 1}):
        calls = 0
        run_of([VIT], out=tmp_path / "out", **changed)
        assert calls > 0


def test_a_limit_of_time(before_forward: Callable[[Hook], None]) -> None:
    """The paper's own model comes first, however slow; what would end too late is left out."""
    before_forward(lambda _: time.sleep(0.05))
    own = replace(VIT, label="DeiT-X", paper=100.0)
    slow, fast = replace(VIT, label="slow", paper=0.1), replace(VIT, label="fast", paper=200.0)
    with BenchRun(None) as run:
        part = InferenceJob("table5", [slow, fast, own], FP32, "cpu", sizes()).part(has_limit=True)
        run.measure(part, seconds=20)
    assert part.items == ("DeiT-X", "fast", "slow")
    assert [row.name for row in run.rows] == ["DeiT-X, fp32", "fast, fp32"]
    assert run.left_out == {"1 rows of table5": "no time was left: slow, fp32"}
    assert not run.failed


# ---- the commands --------------------------------------------------------------------------------
def test_table5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row of the paper, a model of timm, an unknown one: rows, figure, one line, exit code 1."""
    names = ["deit-ti", "DeiT-Ti", "test_vit", "ResNet-19"]
    options = ["--batch-size", "1", "--rounds", "2", "--device", "cpu"]
    out = tmp_path / "out"
    assert main(["bench", "table5", "--models", *names, *options, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    printed = json.loads(captured.out.splitlines()[-1])
    own, other = printed["rows"]
    assert (own["name"], other["name"]) == ("DeiT-Ti, fp32", "test_vit, fp32")
    assert (own["paper"], own["paper_what"]) == (2536.5, "Table 5, one V100 16 GB, fp32")
    assert own["params_m"] == pytest.approx(5.717, abs=0.001)
    assert own["gmacs"] == pytest.approx(1.254, abs=0.001)
    assert (own["n"], own["batch_size"], other["image_size"], other["paper"]) == (2, 1, 160, None)
    (why,) = printed["failed"].values()
    assert "Found: ResNet-19. Near it: ResNet-18, " in why
    assert (out / "figure1.png").exists()
    assert len((out / "rows.jsonl").read_text().splitlines()) == 2


def test_resolutions(capsys: pytest.CaptureFixture[str]) -> None:
    """The model is made for each size; a size that is no multiple of a patch is one line."""
    line = "bench resolutions --image-size 32 40 --batch-size 1 --rounds 2 --device cpu"
    assert main(line.split()) == 1
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = printed["rows"]
    assert (row["name"], row["image_size"]) == ("DeiT-B at 32 px, fp32", 32)
    assert row["gmacs"] == pytest.approx(0.43, abs=0.02)  # 5 tokens of 768
    (why,) = printed["failed"].values()
    assert "must be a multiple of the patch's side (16). Found: 40" in why


def test_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Options that contradict each other, or are too small."""
    assert main("bench table5 --batch-size 2 --max-batch-size 4".split()) == 2
    assert "max_batch_size has no effect beside --batch-size" in capsys.readouterr().err
    assert main("bench table5 --rounds 0".split()) == 2
    assert "rounds must be at least 1. Found: 0" in capsys.readouterr().err
