"""`fastdeit ablate`: the runs of Table 8, their table, stopping and going on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from forked import Forked
from jobs import ONE_THREAD, rows_of, run_processes
from nightly import nightly

from fastdeit import UserError
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.paper.ablation import table8
from fastdeit.recipes import ENTRIES, fill_recipe
from fastdeit.recipes.table8 import ROWS, RowName, own_fields
from fastdeit.tools.cli import main
from fastdeit.tools.train.ablation import command as ablate_module
from fastdeit.tools.train.ablation.runs import State, make_runs, pretraining
from fastdeit.tools.train.ablation.table import facts_of, table_of

SMALL = shlex.split(
    "--engine pil --threads 1 --device cpu --model deit_tiny_patch16_224 --embed-dim 24 --depth 2 "
    "--num-heads 3 --image-size 48 --batch-size 128 --epochs 1 --warmup-epochs 0 --ema-decay 0.9 "
    "--finetune-epochs 1 --finetune-image-size 64 --finetune-batch-size 128"
)
"""A model of two blocks for one epoch, then for one more at another resolution."""


def line_of(containers: dict[str, Path], out: Path, *options: str) -> list[str]:
    """A small ablation."""
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    return ["ablate", *data, "--out", str(out), *SMALL, *options]


def result_of(capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The last line on stdout, and stderr."""
    out, err = capfd.readouterr()
    content: dict[str, Any] = json.loads(out.splitlines()[-1])
    return content, err


def row(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A row of the result."""
    found: dict[str, Any] = next(each for each in facts["rows"] if each["row"] == name)
    return found


def test_every_row_of_the_paper() -> None:
    """Each row of Table 8 is one of ours, in its order, and its recipe has its accuracy."""
    assert [each.paper for each in ROWS.values()] == list(table8())
    assert tuple(ROWS) == get_args(RowName)
    for each in ROWS.values():
        assert ENTRIES[each.recipe].top1_pct == table8()[each.paper].pretrain_224
        assert ENTRIES[each.finetune].needs_init
    assert ENTRIES["deit-b-384-sgd"].top1_pct == table8()["finetune optimizer SGD"].finetune_384


def test_which_runs_there_are() -> None:
    """Eleven trainings, since three rows share one, and a fine-tuning for each row."""
    config = fill_recipe("deit-b", Path("x"))
    runs = make_runs(config, tuple(ROWS), {})
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) == 11 + 13
    assert [pretraining(name) for name in ("none", "finetune-sgd", "ema")] == ["none"] * 3
    for number, run in enumerate(runs):
        assert run.begins_with is None or run.begins_with in names[:number]
    by_name = {run.name: run for run in runs}
    assert by_name["no-mixup"].options == {}
    # Augmentation stays what the row says, the optimiser is the fine-tuning's own.
    assert by_name["no-mixup-finetuned"].options == {"augment.mixup_alpha": 0.0}
    assert by_name["sgd-finetuned"].options == {}
    assert by_name["finetune-sgd-finetuned"].recipe == "deit-b-384-sgd"
    assert by_name["ema-finetuned"].options == {"init_weights": "ema"}
    assert len(make_runs(config, tuple(ROWS), None)) == 11


def parsed(line: list[str]) -> TrainConfig:
    """The configuration that the program makes of a run's line."""
    import tyro

    from fastdeit.tools.cli import PARSING
    from fastdeit.tools.train.command import AnyRecipe

    config: TrainConfig = tyro.cli(AnyRecipe, args=line[1:], config=PARSING)  # type: ignore[arg-type]
    return config


def test_changes_reach_every_run_but_what_it_is_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lines of a dry run are parsed as the program would."""
    options = (
        "--train a --val b --dry-run --model deit_tiny_patch16_224 --epochs 9 --mixup-alpha 0.3 "
        "--color-jitter 0.1 0.2 0.3 --tensorboard --batch-size 64 --finetune-epochs 6 "
        "--rows no-mixup dropout --threads 2"
    )
    assert main(["ablate", "--out", str(tmp_path / "o"), *options.split()]) == 0
    lines = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    assert all(line[0] == "fastdeit" for line in lines)
    first, tuned, dropout, tuned_dropout = (parsed(line[1:]) for line in lines)
    for config in (first, tuned, dropout, tuned_dropout):
        assert config.model.model == "deit_tiny_patch16_224"
        assert config.augment.color_jitter == (0.1, 0.2, 0.3)
        assert (config.run.tensorboard, config.data.threads) == (True, 2)
        assert config.run.resume == "auto"
    assert (first.augment.mixup_alpha, tuned.augment.mixup_alpha) == (0, 0)
    assert (dropout.augment.mixup_alpha, tuned_dropout.augment.mixup_alpha) == (0.3, 0.3)
    assert (dropout.model.dropout, tuned_dropout.model.dropout) == (0.1, 0.1)
    assert (first.optim.epochs, tuned.optim.epochs) == (9, 6)
    assert (first.data.batch_size, tuned.data.batch_size) == (64, 512)
    assert (tuned.data.image_size, tuned.optim.base_lr) == (384, 5e-6)
    assert tuned.init_from == tmp_path / "o" / "no-mixup" / "checkpoint.pt"
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def ablation(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of two rows that has ended."""
    folder = tmp_path_factory.mktemp("ablation")
    out = folder / "out"

    def execute(line: list[str], processes: int, child: Any) -> tuple[int, dict[str, Any]]:
        """As the real one, which other tests here take, but forked."""
        code, printed, err = run_processes(processes, *line, folder=folder)
        assert (code, child.signal_number) == (0, 0), err
        return code, json.loads(printed.splitlines()[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate_module, "execute", execute)
        assert main(line_of(containers, out, "--rows", "no-mixup", "ema")) == 0
    return out


@pytest.mark.slow
def test_two_rows(
    ablation: Path, containers: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Both columns of both rows are the runs' own figures; given again, nothing is run."""
    before = {file: file.stat().st_mtime_ns for file in ablation.rglob("checkpoint.pt")}
    names = {"none", "no-mixup", "no-mixup-finetuned", "ema-finetuned"}
    assert {file.parent.name for file in before} == names
    assert main(line_of(containers, ablation, "--rows", "no-mixup", "ema")) == 0
    facts, err = result_of(capfd)
    assert {file: file.stat().st_mtime_ns for file in ablation.rglob("checkpoint.pt")} == before
    assert "fastdeit train" not in err
    for name, column, run, kind in (
        ("no-mixup", "pretrain", "no-mixup", "eval"),
        ("no-mixup", "finetune", "no-mixup-finetuned", "eval"),
        ("ema", "pretrain", "none", "eval_ema"),
        ("ema", "finetune", "ema-finetuned", "eval"),
    ):
        last = [each for each in rows_of(ablation / run) if each["kind"] == kind][-1]
        found = row(facts, name)[column]
        assert found["ours"] == last["heads"]["class"]["top1_pct"]
        assert found["status"] == "done"
    assert row(facts, "no-mixup")["pretrain"]["paper"] == 78.7
    assert row(facts, "no-mixup")["finetune"]["paper"] == 79.8
    assert row(facts, "sgd")["pretrain"] == {
        "run": "sgd",
        "paper": 74.5,
        "ours": None,
        "status": "not begun",
    }
    text = (ablation / "ablation.md").read_text()
    ours = [f"{row(facts, 'no-mixup')[c]['ours']:.1f}" for c in ("pretrain", "finetune")]
    cells = [each.strip() for each in text.split("| no Mixup ")[1].split("\n")[0].split("|")]
    assert cells[1:5] == ["78.7", ours[0], "79.8", ours[1]]
    assert "--epochs 1" in text  # not the paper's settings
    assert table_of(facts) in text


@pytest.mark.slow
def test_what_is_fine_tuned(ablation: Path) -> None:
    """At the other resolution, from the raw weights or their average, with the row's change."""
    for name, first, kind in (("ema", "none", "ema"), ("no-mixup", "no-mixup", "raw")):
        content = load_checkpoint(ablation / f"{name}-finetuned" / "checkpoint.pt")
        config = content["config"]
        assert config["init_from"] == str(ablation / first / "checkpoint.pt")
        assert config["init_weights"] == kind
        assert (config["data"]["image_size"], config["optim"]["min_lr"]) == (64, 5e-6)
        assert config["augment"]["mixup_alpha"] == (0.8 if name == "ema" else 0)
        begun = load_checkpoint(ablation / first / "checkpoint.pt")
        weights = begun["model" if kind == "raw" else "ema"]
        other = begun["ema" if kind == "raw" else "model"]
        key = "blocks.0.mlp.fc1.weight"
        near = (content["model"][key] - weights[key]).abs().max()
        assert near < (content["model"][key] - other[key]).abs().max()


@pytest.mark.slow
def test_other_options_are_refused(
    ablation: Path, containers: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Finished runs are not mixed with others; how fast they ran may differ."""
    line = line_of(containers, ablation, "--rows", "no-mixup")
    assert main([*line, "--seed", "3"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "goes on with the options that it began with. Found: run.seed 3, but the fin" in err
    assert main([*line, "--threads", "2", "--log-every-steps", "1"]) == 0


@pytest.mark.slow
def test_the_table_alone_needs_the_folder_only(
    ablation: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """--table-only prints what the ablation printed at its end."""
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "--table-only", "--out", str(ablation)])
    assert stop.value.code == 0
    facts, err = result_of(capfd)
    assert facts == facts_of(ablation, State(ablation))
    assert err.strip() == table_of(facts)
    assert main(["ablate", "--table-only", "--out", str(ablation / "nowhere")]) == 2
    assert "out must be the folder of an ablation" in capfd.readouterr().err


def test_what_is_changed_stays(tmp_path: Path) -> None:
    """When runs have ended, others cannot change something else; before that they can."""
    state = State(tmp_path)
    state.begin(["--epochs 2"])
    state.begin(["--epochs 3"])
    state.finished["none"] = {"options": {}, "result": {}}
    state.begin(["--epochs 3"])
    with pytest.raises(UserError, match=r"Found: --mixup-alpha 0.5, after --epochs 3\. Give"):
        state.begin(["--mixup-alpha 0.5"])
    assert state.changed == ["--epochs 3"]


def test_a_run_that_fails_does_not_end_the_others(
    containers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its line and its fine-tuning's are said; what failed is tried again, what ended is not."""
    out, started, bad = tmp_path / "out", [], {"sgd"}

    def execute(line: list[str], processes: int, child: Any) -> tuple[int, dict[str, Any]]:
        assert (processes, child.signal_number) == (1, 0)
        name = Path(line[line.index("--out") + 1]).name
        started.append(name)
        return (1, {}) if name in bad else (0, {"heads": {"class": {"top1_pct": 12.5}}})

    monkeypatch.setattr(ablate_module, "execute", execute)
    line = line_of(containers, out, "--rows", "sgd", "no-mix")
    assert main(line) == 1
    facts, err = result_of(capfd)
    assert started == ["sgd", "no-mix", "no-mix-finetuned"]
    assert "sgd failed with exit code 1" in err
    assert "sgd-finetuned is left out, for sgd failed" in err
    for column in ("pretrain", "finetune"):
        assert row(facts, "sgd")[column]["status"] == "failed"
        assert row(facts, "no-mix")[column]["ours"] == 12.5
    bad.clear()
    assert main(line) == 0
    facts, err = result_of(capfd)
    assert started[3:] == ["sgd", "sgd-finetuned"]
    assert row(facts, "sgd")["finetune"]["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=nightly)])
def test_the_code_of_a_run_is_seen(
    processes: int,
    containers: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A run that the program refuses is one that failed; each process says why, nobody else."""
    out = tmp_path / "out"
    (out / "sgd").mkdir(parents=True)
    (out / "sgd" / "mine.txt").write_text("a run must not write here")
    assert main(line_of(containers, out, "--rows", "sgd", "--processes", str(processes))) == 1
    assert State(out).failed == {"sgd": 2, "sgd-finetuned": 2}
    before, _, _ = result_of(capfd)[1].partition("sgd failed with exit code 2")
    reasons = [text for text in before.splitlines() if text.startswith("fastdeit: error: ")]
    assert 1 <= len(reasons) <= processes
    assert "Traceback" not in before
    assert "torch" not in before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "processes"),
    [
        (signal.SIGINT, 130, 1),
        pytest.param(signal.SIGTERM, 75, 1, marks=nightly),
        pytest.param(signal.SIGUSR1, 75, 2, marks=nightly),
    ],
)
def test_stopping(
    number: signal.Signals,
    code: int,
    processes: int,
    containers: dict[str, Path],
    tmp_path: Path,
) -> None:
    """The run saves itself, nothing else is begun, and the same command goes on from there."""
    out = tmp_path / "out"
    line = line_of(containers, out, "--rows", "none", "--no-finetune", "--log-every-steps", "1")
    del line[line.index("--finetune-epochs") : line.index("--rows")]
    line += ["--epochs", "400", "--processes", str(processes)]
    log = tmp_path / "log"
    process = Forked(line, {**os.environ, **ONE_THREAD}, log, log)
    end = time.monotonic() + 120
    while not rows_of(out / "none") and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == code, log.read_text()
    text = log.read_text()
    assert "the same command goes on" in text
    assert "Traceback" not in text
    position = load_checkpoint(out / "none" / "checkpoint.pt")["position"]
    assert 0 < position["step"] < 800
    facts = facts_of(out, State(out))
    done = position["epoch"]
    assert row(facts, "none")["pretrain"]["status"] == f"epoch {done}/400"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--no-finetune", "--finetune-epochs", "3"], "finetune must be on for options of the"),
        (["--processes", "0"], "processes must be at least 1. Found: 0"),
        (["--overwrite"], "overwrite has no effect: finished runs are kept"),
        (["--init-from", "c.pt"], "init_from has no effect: rows are trained from the beginning"),
        (["--out", "{tmp}"], "the folder of an ablation must be new or one's own. Found: "),
    ],
)
def test_what_is_refused(
    options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one line, before anything is run."""
    (tmp_path / "note").write_text("something else")
    line = ["ablate", "--train", "a", "--val", "b", "--out", str(tmp_path / "new")]
    assert main([*line, *(option.format(tmp=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error
    assert not (tmp_path / "new").exists()


def test_a_foreign_state_is_refused(tmp_path: Path) -> None:
    """A file of that name that is something else is one line."""
    (tmp_path / "ablation.json").write_text("[1]")
    with pytest.raises(UserError, match="state of an ablation must be what `fastdeit ablate`"):
        State(tmp_path)


def test_own_fields_are_what_the_table_says() -> None:
    """No row changes anything that its recipe's test does not name."""
    changed = {name: set(own_fields(each.recipe)) for name, each in ROWS.items()}
    assert changed["no-mix"] == {"augment.mixup_alpha", "augment.cutmix_alpha"}
    assert changed["sgd"] == {"optim.optimizer"}
    assert not changed["none"] | changed["ema"] | changed["finetune-sgd"]
