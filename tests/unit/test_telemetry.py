"""Metrics arrive: in the file at once, in TensorBoard and W&B as curves over the steps."""

from __future__ import annotations

import importlib
import json
import struct
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fastdeit import UserError
from fastdeit.config import RunConfig
from fastdeit.training.telemetry import TELEMETRY_FILES, Metrics, check_telemetry, scalars_of

CONFIG = {"data": {"batch_size": 64}, "model": {"model": "deit_tiny_patch16_224"}}


def train_row(step: int, loss: float = 6.9) -> dict[str, Any]:
    """A row as training writes it."""
    return {
        "kind": "train",
        "epoch": 0,
        "step": step,
        "loss": loss,
        "lr": 1e-3,
        "img_per_s": 3000.0,
        "mfu": None,
        "in_budget": True,
        "elapsed_s": 1.5 * step,
    }


def eval_row(step: int, kind: str = "eval") -> dict[str, Any]:
    """A row as evaluation writes it."""
    heads = {"class": {"top1_pct": 50.0, "top5_pct": 75.0, "loss": 2.0}}
    return {"kind": kind, "epoch": 0, "step": step, "num_images": 10, "heads": heads}


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The rows of the file."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_each_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A row can be read before the next is written; nothing else is made."""
    with Metrics(tmp_path, RunConfig(out=tmp_path), CONFIG) as metrics:
        metrics.write(train_row(10))
        assert rows_in(tmp_path) == [train_row(10)]
        metrics.write(eval_row(10))
    assert rows_in(tmp_path) == [train_row(10), eval_row(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_that_goes_on_adds_rows_and_a_new_one_does_not(tmp_path: Path) -> None:
    """first_step decides."""
    run = RunConfig(out=tmp_path)
    for first_step, steps in ((0, [10]), (10, [10, 20]), (0, [30])):
        with Metrics(tmp_path, run, CONFIG, first_step) as metrics:
            metrics.write(train_row(steps[-1]))
        assert [row["step"] for row in rows_in(tmp_path)] == steps


def test_the_file_is_closed_after_an_error(tmp_path: Path) -> None:
    """An error passes through, and the rows before it stay."""
    metrics = Metrics(tmp_path, RunConfig(out=tmp_path), CONFIG)
    with pytest.raises(FloatingPointError), metrics:
        metrics.write(train_row(10))
        raise FloatingPointError("loss")
    assert metrics._file.closed
    assert len(rows_in(tmp_path)) == 1


def test_curves() -> None:
    """Numbers become curves, named after the kind; counters, texts and truth values do not."""
    assert scalars_of(train_row(10)) == {
        "train/loss": 6.9,
        "train/lr": 1e-3,
        "train/img_per_s": 3000.0,
        "train/elapsed_s": 15.0,
    }
    assert scalars_of(eval_row(10, "eval_ema")) == {
        "eval_ema/class/top1_pct": 50.0,
        "eval_ema/class/top5_pct": 75.0,
        "eval_ema/class/loss": 2.0,
    }


def curves_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: (step, value) of each curve."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = events.EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_shows_the_curves(tmp_path: Path) -> None:
    """Its own reader finds every number at its step, and the configuration; even before the end."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = RunConfig(out=tmp_path, tensorboard=True)
    check_telemetry(run)
    with Metrics(tmp_path, run, CONFIG) as metrics:
        metrics.write(train_row(10, loss=6.5))
        metrics.write(train_row(20, loss=6.0))
        metrics.write(eval_row(20))
        curves = curves_in(tmp_path / "tensorboard")
    assert curves["train/loss"] == [(10, 6.5), (20, 6.0)]
    assert curves["eval/class/top1_pct"] == [(20, 50.0)]
    assert "train/step" not in curves
    accumulator = events.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (text,) = accumulator.Tensors("config/text_summary")
    assert b'"batch_size": 64' in text.tensor_proto.string_val[0]
    assert {path.name for path in tmp_path.iterdir()} <= TELEMETRY_FILES


def test_tensorboard_hides_what_is_done_again(tmp_path: Path) -> None:
    """A run that goes on at step 20 replaces what came after it, and keeps step 20 itself."""
    run = RunConfig(out=tmp_path, tensorboard=True)
    with Metrics(tmp_path, run, CONFIG) as metrics:
        for step in (10, 20, 30, 40):
            metrics.write(train_row(step, loss=float(step)))
    with Metrics(tmp_path, run, CONFIG, first_step=20) as metrics:
        metrics.write(train_row(30, loss=3.0))
    assert curves_in(tmp_path / "tensorboard")["train/loss"] == [(10, 10.0), (20, 20.0), (30, 3.0)]


def test_tensorboard_forgets_an_earlier_try(tmp_path: Path) -> None:
    """A run that begins anew shows its own curves only."""
    run = RunConfig(out=tmp_path, tensorboard=True)
    for loss in (1.0, 2.0):
        with Metrics(tmp_path, run, CONFIG) as metrics:
            metrics.write(train_row(5, loss=loss))
    assert curves_in(tmp_path / "tensorboard")["train/loss"] == [(5, 2.0)]


class FakeWandb(ModuleType):
    """Records the calls of W&B's own interface."""

    class Error(Exception):
        """W&B's base of errors."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.metrics: list[tuple[str, str | None]] = []

    def init(self, **options: Any) -> Any:
        """Begin a run."""
        if options["project"] == "refused":
            raise self.Error("api_key not configured\n(no-tty)")
        self.runs.append(options)
        return SimpleNamespace(
            log=self.logged.append,
            finish=lambda exit_code: self.exit_codes.append(exit_code),
            define_metric=lambda name, step_metric=None: self.metrics.append((name, step_metric)),
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    """W&B, whether it is installed or not."""
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_curves(tmp_path: Path, wandb: FakeWandb) -> None:
    """Project, configuration, folder and rows arrive, with the step as the horizontal axis."""
    run = RunConfig(out=tmp_path, wandb="deit")
    check_telemetry(run)
    with Metrics(tmp_path, run, CONFIG) as metrics:
        metrics.write(train_row(10))
    (options,) = wandb.runs
    assert (options["project"], options["config"]) == ("deit", CONFIG)
    assert (options["dir"], options["name"]) == (str(tmp_path), tmp_path.name)
    assert wandb.metrics == [("step", None), ("*", "step")]
    assert wandb.logged == [{**scalars_of(train_row(10)), "step": 10}]
    assert wandb.exit_codes == [0]


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, wandb: FakeWandb) -> None:
    """The id is kept for a run that goes on, and another one for a run that begins anew."""
    run = RunConfig(out=tmp_path, wandb="deit")
    for first_step in (0, 20, 0):
        with Metrics(tmp_path, run, CONFIG, first_step):
            pass
    first, second, third = (options["id"] for options in wandb.runs)
    assert first == second != third
    assert all(options["resume"] == "allow" for options in wandb.runs)


def test_wandb_is_told_of_a_failure(tmp_path: Path, wandb: FakeWandb) -> None:
    """A run that ends in an error is a failed run there too."""
    run = RunConfig(out=tmp_path, wandb="deit")
    with pytest.raises(FloatingPointError), Metrics(tmp_path, run, CONFIG):
        raise FloatingPointError("loss")
    assert wandb.exit_codes == [1]


def test_wandb_that_does_not_begin(tmp_path: Path, wandb: FakeWandb) -> None:
    """Its error is one line with a way out, and the file is closed."""
    run = RunConfig(out=tmp_path, wandb="refused", tensorboard=False)
    metrics = Metrics(tmp_path, run, CONFIG)
    with pytest.raises(UserError, match=r"Found: api_key not configured \(no-tty\)\. Run `wandb"):
        metrics.__enter__()
    assert metrics._file.closed


@pytest.mark.slow
def test_the_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B itself takes the calls: two offline runs of one id, with the rows in their files."""
    pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = RunConfig(out=tmp_path, wandb="deit")
    with Metrics(tmp_path, run, CONFIG) as metrics:
        metrics.write(train_row(10, loss=6.25))
    with Metrics(tmp_path, run, CONFIG, first_step=10) as metrics:
        metrics.write(eval_row(20))
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (tmp_path / "wandb_id").read_text().strip()
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    # W&B's own process writes the end a moment after finish() returned.
    deadline = time.monotonic() + 20
    records: list[Any] = []
    while [each.WhichOneof("record_type") for each in records].count("exit") < 2:
        assert time.monotonic() < deadline, "W&B's files have no end"
        time.sleep(0.05)
        records = [record for file in files for record in records_in(file)]
    logged = {
        item.nested_key[0]: float(item.value_json)
        for record in records
        for item in record.history.item
    }
    assert (logged["train/loss"], logged["eval/class/top1_pct"], logged["step"]) == (6.25, 50, 20)
    begun = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(each.run_id, each.project) for each in begun} == {(run_id, "deit")}
    shown = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert shown["data"] == CONFIG["data"]


def records_in(file: Path) -> list[Any]:
    """What an offline file of W&B holds: protocol buffers in the framing of LevelDB's log."""
    record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    content, position, part, records = file.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # a block's end is padded
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        part += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(record.FromString(part))
            part = b""
    return records


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        ({"tensorboard": True}, "torch.utils.tensorboard", "tensorboard"),
        ({"wandb": "deit"}, "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named(
    options: dict[str, Any], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the extra, before anything is written."""
    real = importlib.import_module

    def missing(name: str) -> ModuleType:
        if name == module:
            raise ModuleNotFoundError(f"No module named '{extra}'")
        return real(name)

    monkeypatch.setattr("fastdeit.training.telemetry.importlib.import_module", missing)
    with pytest.raises(UserError) as caught:
        check_telemetry(RunConfig(out=Path("never"), **options))
    assert str(caught.value) == (
        f"{extra} must be installed for --{extra}. Found: No module named '{extra}'. "
        f"Run: pip install 'fastdeit[{extra}]', or leave out --{extra}."
    )


def test_an_empty_folder_is_not_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named wandb in the working folder can be imported; it is not W&B."""
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    with pytest.raises(UserError, match=r"wandb must be installed for --wandb. Found: module"):
        check_telemetry(RunConfig(out=Path("never"), wandb="deit"))


def test_a_project_must_have_a_name() -> None:
    """An empty one is refused."""
    with pytest.raises(UserError, match=r"wandb must be the name of a project. Found: ' '"):
        check_telemetry(RunConfig(out=Path("never"), wandb=" "))


def test_nothing_is_imported_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the options, neither package is touched."""

    def refuse(name: str) -> ModuleType:
        raise AssertionError(f"imported {name}")

    monkeypatch.setattr("fastdeit.training.telemetry.importlib.import_module", refuse)
    check_telemetry(RunConfig(out=Path("never")))
