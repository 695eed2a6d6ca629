"""`fastdeit bench step`: its rows belong together, and a slow loader is found."""

from __future__ import annotations

import gzip
import inspect
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_here import Heard
from nightly import nightly
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from fastdeit import UserError
from fastdeit.benchmarks.cases import step_bench as step_module
from fastdeit.benchmarks.cases.step import StepJob
from fastdeit.benchmarks.cases.step_part import measure_step
from fastdeit.benchmarks.peers import deit_loop as published_module
from fastdeit.benchmarks.peers.deit_loop import make_criterion, make_mixup, published_loop
from fastdeit.config import TrainConfig
from fastdeit.models import make_model
from fastdeit.models.flops import MATRIX_SIDE, train_flops
from fastdeit.pipelines.engines.pil_engine import PilPipeline
from fastdeit.pipelines.open import is_installed
from fastdeit.recipes import RECIPES, fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.cli import main
from fastdeit.training.steps import stand_in_teacher, usual_teacher

LOOP, STEP, ALONE = "the published DeiT loop", "fastdeit step", "fastdeit augmentation alone"
FILES, LOADER = "fastdeit step from files (pil)", "fastdeit loader alone (pil)"
SMALL = "--image-size 48 --batch-size 16 --rounds 1 --device cpu"


pytestmark = pytest.mark.usefixtures("parts_here")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of two steps, and a small matrix."""
    monkeypatch.setitem(step_module.STEPS, "cpu", 2)
    monkeypatch.setitem(MATRIX_SIDE, "cpu", 512)


def bench(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """Rows by name, and the table."""
    assert main(["bench", "step", *line.split()]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out.splitlines()[-1])["rows"]
    return {row["name"]: row for row in rows}, captured.err


@pytest.mark.slow
def test_rows_belong_together(
    containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate, time of a step, ratios and MFU follow from each other; the teacher's work counts."""
    line = f"--recipe demo --data {containers['beton']} --engine pil --threads 1 {SMALL}"
    rows, table = bench(line, capsys)
    assert list(rows) == [LOOP, STEP, FILES, ALONE, LOADER]
    config = changed(fill_recipe("demo", Path()), data={"image_size": 48})
    teacher = stand_in_teacher(config, 20, usual_teacher("demo"))
    flops = train_flops(make_model(config.model, 20, 48), teacher, 48)
    for row in rows.values():
        assert row["step_ms"] == pytest.approx(1000 * 16 / row["median"])
        assert row["gpu_memory_gib"] is None
    for name in (LOOP, STEP, FILES):
        row = rows[name]
        assert row["peak_what"].endswith("TFLOP/s, measured: 512^3 matrix product in fp32")
        peak = float(row["peak_what"].split()[0]) * 1e12
        assert row["mfu"] == pytest.approx(row["median"] * flops / peak, rel=1e-3)
        assert row["frac_of_bound"] == pytest.approx(row["median"] / row["bound"])
        # The first layer needs no gradient of its images, which the MFU counts all the same.
        assert 0.8 < row["frac_of_bound"] / row["mfu"] <= 1.001
        assert "test_resnet with random weights" in row["note"]
    # One round, so that a ratio of medians is the median of ratios.
    for name, others in ((STEP, (LOOP,)), (FILES, (LOOP, STEP)), (LOADER, (STEP,))):
        assert rows[name]["ratios"] == {
            other: pytest.approx(rows[name]["median"] / rows[other]["median"]) for other in others
        }
    assert rows[FILES]["ratio"] == rows[FILES]["ratios"][LOOP]
    assert rows[LOOP]["ratios"] == rows[ALONE]["ratios"] == {}
    assert [name for name, row in rows.items() if row["data_wait_frac"] is not None] == [FILES]
    assert "ms/step" in table and "data wait" in table and "GPU GiB" not in table


@pytest.mark.slow
def test_a_planted_sleep_is_found(
    containers: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A loader that sleeps for 100 ms a batch is waited for; it rests in others' turns."""
    images_of, augment, open_pipeline = (
        PilPipeline._images,
        step_module.augment,
        step_module.open_pipeline,
    )
    opened: list[Any] = []
    states: list[str] = []

    def open_and_keep(*args: Any) -> Any:
        opened.append(open_pipeline(*args))
        return opened[-1]

    def augment_alone(*args: Any) -> Any:
        if opened[0]._open is not None:  # what is counted before anything is timed
            states.append(inspect.getgeneratorstate(opened[0]._open))
        return augment(*args)

    def slow(self: PilPipeline, requests: Iterator[Any]) -> Iterator[Any]:
        for made in images_of(self, requests):
            time.sleep(0.1)
            yield made

    monkeypatch.setattr(PilPipeline, "_images", slow)
    monkeypatch.setattr(step_module, "open_pipeline", open_and_keep)
    monkeypatch.setattr(step_module, "augment", augment_alone)
    line = f"--recipe demo-teacher --data {containers['beton']} --engine pil {SMALL}"
    rows, _ = bench(line, capsys)
    files = rows[FILES]
    assert 100 < files["data_wait_frac"] * files["step_ms"] < files["step_ms"]
    assert files["step_ms"] > 100 + 0.2 * rows[STEP]["step_ms"]
    assert files["ratios"][STEP] < 1
    assert rows[LOADER]["step_ms"] > 100
    assert opened[0].name == "pil"
    assert set(states) == {inspect.GEN_CLOSED}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["demo-teacher", "deit-b-no-mix", "deit3-s", "deit-b-sgd"])
def test_other_recipes(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without mixing, with binary cross-entropy and Lamb, with SGD; nothing of files is shown."""
    model = "" if recipe == "demo-teacher" else "--model test_vit"
    rows, table = bench(f"--recipe {recipe} {model} {SMALL}", capsys)
    assert list(rows) == [LOOP, STEP, ALONE]
    assert ("no Mixup, as the recipe" in rows[LOOP]["note"]) == (
        recipe in ("demo-teacher", "deit-b-no-mix")
    )
    (header,) = [line for line in table.splitlines() if line.startswith("case ")]
    assert "ms/step" in header and "data wait" not in header


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_published_loss(recipe: str) -> None:
    """Every recipe gets the loss that main.py chooses, and a Mixup where it mixes."""
    config = fill_recipe(recipe, Path())
    criterion, mixup = make_criterion(config), make_mixup(config.augment, 10)
    if config.augment.mixup_alpha == config.augment.cutmix_alpha == 0:
        assert mixup is None
        smoothing = config.augment.smoothing
        kind: type[nn.Module] = LabelSmoothingCrossEntropy if smoothing else nn.CrossEntropyLoss
        assert type(criterion) is kind
        assert getattr(criterion, "smoothing", 0.0) == smoothing
        return
    assert mixup is not None
    is_bce = config.optim.loss == "bce"
    assert type(criterion) is (nn.BCEWithLogitsLoss if is_bce else SoftTargetCrossEntropy)
    assert mixup.label_smoothing == config.augment.smoothing


@pytest.mark.parametrize("recipe", ["deit-s", "demo-teacher"])
def test_the_published_loop_is_contiguous_and_learns(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model stays as timm made it, has the average moved, and leaves the images alone."""
    models: list[nn.Module] = []
    averages: list[Any] = []
    make, average_of = published_module.make_model, published_module.ModelEma

    def make_and_keep(*args: Any) -> nn.Module:
        models.append(make(*args))
        return models[-1]

    def keep_average(*args: Any, **options: Any) -> Any:
        averages.append(average_of(*args, **options))
        return averages[-1]

    monkeypatch.setattr(published_module, "make_model", make_and_keep)
    monkeypatch.setattr(published_module, "ModelEma", keep_average)
    config: TrainConfig = fill_recipe(recipe, Path())
    config = changed(config, data={"image_size": 48})
    images = torch.randn(4, 3, 48, 48)
    config = changed(config, data={"batch_size": 4})
    take = published_loop(config, None, images.device, 10)
    (model,) = models
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert take((images.clone(), torch.arange(4)) for _ in range(2)) == 2 * 4
    assert all(value.is_contiguous() for value in model.parameters())
    moved = [name for name, v in model.named_parameters() if not torch.equal(v, weights[name])]
    assert len(moved) > 0.9 * len(list(model.parameters()))
    assert len(averages) == (config.optim.ema_decay > 0)
    for average in averages:
        state = average.ema.state_dict()
        assert any(not torch.equal(state[name], weights[name]) for name in moved)


def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the batch, and the way out."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_module, "published_loop", full)
    config = fill_recipe("demo-teacher", Path())
    with pytest.raises(UserError, match=r"Found: 64 images, too many for cpu\. Pass a smaller"):
        measure_step(Heard().record, StepJob(recipe="demo-teacher", config=config, rounds=1))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--engine pil", "engine has no effect without a dataset to decode. Found: pil."),
        ("--threads 2", "threads has no effect without a dataset to decode. Found: 2."),
        ("--precision tf32 --device cpu", "precision tf32 needs a GPU. Found: device cpu."),
        ("--batch-size 0", "batch_size must be at least 1. Found: 0."),
        ("--rounds 0", "rounds must be at least 1. Found: 0."),
        ("--data none.beton", "dataset does not exist. Found: nothing at none.beton."),
        ("--recipe deit-sb", "no such recipe. Found: deit-sb. Near it: deit-s, "),
    ],
)
def test_wrong_lines(line: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option without effect, or that cannot be, is one line."""
    assert main(["bench", "step", *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeit: error: ") and text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--batch-size 15", "batch_size must be even, for timm's Mixup takes pairs. Found: 15"),
        ("--image-size 60", "image_size must be a multiple of the patch's side (8). Found: 60"),
    ],
)
def test_what_cannot_be_measured(line: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe that cannot be measured is one line, and the exit code says so."""
    assert main(["bench", "step", *line.split()]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("not measured: ")]
    assert text in line
    assert "Traceback" not in captured.err
    assert json.loads(captured.out)["rows"] == []


def test_nothing_compiled_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that would act elsewhere is refused, before anything is measured."""
    line = f"--recipe demo --device cpu --save-compiled --out {tmp_path / 'out'}"
    assert main(["bench", "step", *line.split()]) == 2
    assert "save_compiled has no effect where nothing is compiled" in capsys.readouterr().err


@pytest.mark.slow
def test_the_others_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One recipe that cannot be measured does not stop another, at two batch sizes."""
    line = "--recipe demo demo-teacher --batch-size 15 16 --image-size 48 --rounds 1 --device cpu"
    assert main(["bench", "step", *line.split()]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["failed"]) == ["step: demo, batch 15"]
    cases = [(row["case"], row["batch_size"]) for row in printed["rows"] if row["name"] == STEP]
    assert cases == [
        ("step: demo, batch 16", 16),
        ("step: demo-teacher, batch 15", 15),
        ("step: demo-teacher, batch 16", 16),
    ]


@pytest.mark.slow
def test_end_to_end(
    containers: dict[str, Path], sample_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each engine and DeiT's own pipeline, beside the step on images that lie there."""
    line = f"end-to-end --data {containers['beton']} --source {sample_source / 'train'} "
    line += f"--engine pil ffcv --threads 1 --recipe demo {SMALL}"
    if not is_installed("ffcv"):
        line = line.replace("pil ffcv", "pil")
    assert main(["bench", *line.split()]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    own = f"{LOOP} from files (its own loader)"
    assert rows[own]["ratios"] == {LOOP: pytest.approx(rows[own]["median"] / rows[LOOP]["median"])}
    ours = [name for name in rows if name.startswith(f"{STEP} from files")]
    assert len(ours) == (2 if is_installed("ffcv") else 1)
    for name in ours:
        row = rows[name]
        assert row["case"] == "end-to-end: demo, batch 16"
        assert row["ratios"] == {
            other: pytest.approx(row["median"] / rows[other]["median"]) for other in (own, STEP)
        }
        assert row["baseline"] == own
    assert rows[STEP]["case"] == "step: demo, batch 16"
    assert rows[STEP]["phases_ms"].keys() >= {"data wait", "augmentation", "forward", "backward"}


@pytest.mark.slow
def test_a_planted_sleep_is_found_in_the_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the optimiser sleeps, the optimiser takes long, and nothing else does."""
    rows, _ = bench(f"--recipe demo {SMALL}", capsys)
    before = rows[STEP]["phases_ms"]
    take = torch.optim.AdamW.step

    def slow(self: torch.optim.AdamW, *args: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return take(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", slow)
    rows, _ = bench(f"--recipe demo {SMALL}", capsys)
    after = rows[STEP]["phases_ms"]
    assert after["optimizer"] > before["optimizer"] + 190
    assert after["forward"] < before["forward"] + 100
    assert rows[STEP]["step_ms"] > 200


@pytest.mark.slow
def test_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each combination is a row beside the first; a profile of each; what cannot be is a line."""
    line = "--recipe demo --compile off --attention flash math cudnn --batch-size 4 6 --trace "
    line += f"--image-size 32 --rounds 1 --device cpu --no-peers --out {tmp_path / 'out'}"
    assert main(["bench", "step", *line.split()]) == 1
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [f"fastdeit step, compile off, attention {name}" for name in ("flash", "math")]
    steps = [row for row in facts["rows"] if row["name"].startswith(STEP)]
    assert [(row["name"], row["batch_size"]) for row in steps] == [
        (name, size) for size in (4, 6) for name in names
    ]
    first, *others = steps
    assert first["ratios"] == {}
    for row in others:
        ratio = row["median"] / first["median"]
        assert row["ratios"] == {f"{names[0]}, batch 4": pytest.approx(ratio)}
        assert row["ratio"] == pytest.approx(ratio)
        assert row["note"].endswith(f"compile off, attention {row['name'].split()[-1]}")
    assert list(facts["failed"]) == [
        f"step: demo, batch {size}, compile off, attention cudnn" for size in (4, 6)
    ]
    for why in facts["failed"].values():
        assert why.startswith(
            "attention must be one that cpu can do in torch.float32 at 32 numbers"
        )
    traces = sorted((tmp_path / "out").glob("trace_*.json.gz"))
    assert [file.name for file in traces] == [
        f"trace_demo-batch-{size}-compile-off-attention-{name}.json.gz"
        for size in (4, 6)
        for name in ("flash", "math")
    ]
    with gzip.open(traces[0]) as file:
        events = json.load(file)["traceEvents"]
    assert any("flash_attention" in str(event.get("name")) for event in events)


@nightly  # test_torch_compile.py has it without the benchmark
@pytest.mark.slow
def test_compiled_code_is_kept_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--save-compiled writes a file, --compiled finds its code in another cache."""
    code = tmp_path / "out" / "compiled.zip"
    line = "bench step --recipe demo-teacher --model test_vit --compile default --image-size 32 "
    line += "--batch-size 4 --rounds 1 --device cpu --no-peers"
    found = []
    for name, more in (("out", "--save-compiled"), ("other", f"--compiled {code}")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / f"cache-{name}"))
        torch._dynamo.utils.counters.clear()
        assert main([*line.split(), *more.split(), "--out", str(tmp_path / name)]) == 0
        counters = torch._dynamo.utils.counters["aot_autograd"]
        found.append((counters["autograd_cache_miss"], counters["autograd_cache_hit"]))
        capsys.readouterr()
    assert found == [(1, 0), (0, 1)]
    assert main([*line.split(), "--compiled", str(tmp_path / "none.zip")]) == 2
    assert "must be a file that --save-compiled wrote" in capsys.readouterr().err
