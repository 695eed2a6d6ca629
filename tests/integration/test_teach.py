"""`fastdeit teach`: students that read what the teacher said end as those that ask it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import MIXED, TINY, run_here, run_processes
from nightly import nightly

from fastdeit import UserError
from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.files import LOCK, FolderLock
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import train_plan
from fastdeit.pipelines.teacher_labels import LabelStore, row_type
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.cli import main
from fastdeit.tools.data.convert.command import convert
from fastdeit.training.teacher import dense_probs, likeliest

pytestmark = pytest.mark.slow
NOT_MIXED = ("--mixup-alpha", "0", "--cutmix-alpha", "0", "--auto-augment", "rand-m9-mstd0.5-inc1")


@pytest.fixture(scope="module")
def teacher(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small convnet that has seen two epochs."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    more = ["--engine", "pil", "--threads", "1", "--epochs", "2", "--image-size", "48"]
    assert main(["train", "demo-teacher", *data, "--out", str(out), *more]) == 0
    return out / "checkpoint.pt"


def teach(
    containers: dict[str, Path], out: Path, teacher: Path, *options: str, mixed: bool = True
) -> int:
    """The teacher's labels for the runs of `run_here`, which do not save here."""
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    more = (*TINY, *(MIXED if mixed else NOT_MIXED), "--teacher", str(teacher), *options)
    return main(["teach", "demo-teacher", *data, "--out", str(out), *more])


def files_of(store: Path) -> dict[str, bytes]:
    """What a store holds."""
    return {file.name: file.read_bytes() for file in store.iterdir() if file.name != LOCK}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The last weights of a run."""
    model: dict[str, torch.Tensor] = load_checkpoint(out / "checkpoint.pt")["model"]
    return model


def assert_same(one: Path, other: Path) -> None:
    """Two runs have the same weights, bit for bit."""
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        (("hard",), True),
        pytest.param(("hard",), False, marks=nightly),
        pytest.param(("soft", "--teacher-top-k", "3"), True, marks=nightly),
        (("soft", "--teacher-top-k", "99"), False),
    ],
)
def test_a_store_is_as_good_as_the_teacher(
    kind: tuple[str, ...],
    token: bool,
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bit-identical weights, mixed images, in parts; 2 bytes an image, or 4 for each class kept."""
    options = ["--distillation", *kind]
    assert teach(containers, tmp_path / "labels", teacher, *options) == 0
    facts = json.loads(capsys.readouterr().out)
    num_kept = {"hard": None, "3": 3, "99": 20}[kind[-1]]
    each = 2 if num_kept is None else 4 * num_kept
    assert facts["answers"] == 3 * 4 * 63
    files = sorted((tmp_path / "labels").glob("*.labels"))
    assert [file.stat().st_size for file in files] == [4 * 63 * each] * 3
    model = "deit_tiny_distilled_patch16_224" if token else "deit_tiny_patch16_224"
    options += ["--model", model, "--accumulate", "3"]
    assert run_here(containers, tmp_path / "live", *options, "--teacher", str(teacher)) == 0
    labels = ["--teacher-labels", str(tmp_path / "labels")]  # and no teacher
    assert run_here(containers, tmp_path / "stored", *options, *labels) == 0
    assert_same(tmp_path / "live", tmp_path / "stored")
    for run in ("live", "stored"):
        assert load_checkpoint(tmp_path / run / "checkpoint.pt")["teacher_model"] == "test_resnet"
    # It does teach something.
    plain = ["--model", "deit_tiny_patch16_224", "--accumulate", "3"]
    if not token:
        assert run_here(containers, tmp_path / "plain", *plain) == 0
        other = weights(tmp_path / "plain")
        assert any(not torch.equal(v, other[n]) for n, v in weights(tmp_path / "live").items())


def test_a_stopped_store_goes_on(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After its last whole epoch, to the same bytes; another number of epochs is added."""
    from fastdeit.tools.train import teach as command

    whole, out = tmp_path / "whole", tmp_path / "labels"
    assert teach(containers, whole, teacher, "--distillation", "hard") == 0
    ask, calls = command.ask, 0

    def stop(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return ask(*args)

    monkeypatch.setattr(command, "ask", stop)
    assert teach(containers, out, teacher, "--distillation", "hard") == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert teach(containers, out, teacher, "--distillation", "hard") == 0
    assert "1 of 3 epochs are there" in capsys.readouterr().err
    assert files_of(out) == files_of(whole)


def test_two_processes_write_the_same(
    containers: dict[str, Path], teacher: Path, tmp_path: Path
) -> None:
    """Without mixing; and any number of processes reads it."""
    options = ("--distillation", "hard", "--epochs", "1", "--warmup-epochs", "0")
    assert teach(containers, tmp_path / "one", teacher, *options, mixed=False) == 0
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    line = ["teach", "demo-teacher", *data, "--out", str(tmp_path / "two"), *TINY, *NOT_MIXED]
    code, _, error = run_processes(2, *line, "--teacher", str(teacher), *options, folder=tmp_path)
    assert code == 0, error
    one, two = ((tmp_path / name / "epoch00000.labels").read_bytes() for name in ("one", "two"))
    same = np.frombuffer(one, "<u2") == np.frombuffer(two, "<u2")
    assert len(one) == len(two)
    assert same.mean() > 0.99  # other shares, other rounding: a near tie may fall otherwise
    config = config_of(containers, tmp_path / "one")
    index = open_dataset(containers["beton"])
    parts = []
    for rank in range(3):
        plan = train_plan(config.data, index, config.run, rank, 3)
        parts.append(LabelStore(config, plan, index).read(0, 1))
    assert torch.cat(parts).tolist() == np.frombuffer(one, "<u2")[63 : 2 * 63].tolist()


def config_of(containers: dict[str, Path], labels: Path) -> Any:
    """The configuration of the runs of `teach`, unmixed."""
    return changed(
        fill_recipe("demo-teacher", containers["beton"]),
        data={"batch_size": 63, "train": containers["beton"]},
        augment={
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "mixup_alpha": 0.0,
            "cutmix_alpha": 0.0,
        },
        optim={"epochs": 1, "warmup_epochs": 0},
        distill={"distillation": "hard", "teacher_labels": labels},
    )


def test_a_store_is_of_the_same_bytes(
    containers: dict[str, Path], teacher: Path, tmp_path: Path
) -> None:
    """In any container; the same images encoded anew are not what the teacher saw."""
    labels = tmp_path / "labels"
    options = ("--distillation", "hard", "--epochs", "1", "--warmup-epochs", "0")
    assert teach(containers, labels, teacher, *options, mixed=False) == 0
    config = config_of(containers, labels)

    def read(path: Path) -> list[int]:
        index = open_dataset(path)
        plan = train_plan(config.data, index, config.run)
        return LabelStore(config, plan, index).read(0, 0).tolist()

    said = read(containers["beton"])
    assert len(said) == 63
    assert read(containers["webdataset"]) == read(containers["imagefolder"]) == said
    again = tmp_path / "again.beton"
    assert convert(containers["imagefolder"], again, reencode="all", quality=80) == 0
    with pytest.raises(UserError, match=r"data.median_bytes \d+ in the store and \d+ here\. "):
        read(again)
    assert convert(containers["imagefolder"], again, max_side=60, overwrite=True) == 0
    with pytest.raises(UserError, match="with the same images at other sizes"):
        read(again)


def test_what_does_not_fit_is_refused(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other settings, other batches where images are mixed, too few epochs, damage: one line."""
    labels = tmp_path / "labels"
    hard = ("--distillation", "hard")
    assert teach(containers, labels, teacher, *hard, "--epochs", "2", "--warmup-epochs", "0") == 0
    capsys.readouterr()
    given = (*hard, "--teacher-labels", str(labels), "--epochs", "2", "--warmup-epochs", "0")

    def refused(*options: str) -> str:
        out = tmp_path / "run"
        assert run_here(containers, out, *given, *options) == 2
        assert not out.exists()
        error = capsys.readouterr().err
        assert "Traceback" not in error
        (line,) = [text for text in error.splitlines() if text.startswith("fastdeit: error: ")]
        return line

    assert "run.seed 0 in the store and 1 here" in refused("--seed", "1")
    assert "data.batch_size 63 in the store and 62 here" in refused("--batch-size", "62")
    assert "augment.erase_prob 0.0 in the store and 0.25 here" in refused("--erase-prob", "0.25")
    assert "none of epoch 3 in" in refused("--epochs", "3")
    assert "data.image_size 64 in the store and 32 here" in refused("--image-size", "32")
    soft = refused("--distillation", "soft", "--teacher-top-k", "2")
    assert "distill.distillation hard in the store and soft here" in soft
    for what in (str(tmp_path), str(labels / "labels.json")):
        assert "a store of labels must be a folder" in refused("--teacher-labels", what)
    # Smoothing changes labels, not images.
    assert run_here(containers, tmp_path / "fine", *given, "--smoothing", "0.2") == 0
    capsys.readouterr()
    with (labels / "epoch00001.labels").open("r+b") as file:
        file.seek(5)
        file.write(b"x")
    assert run_here(containers, tmp_path / "damaged", *given) == 2
    assert "teacher_labels are damaged. Found: " in capsys.readouterr().err
    shutil.rmtree(tmp_path / "damaged")
    # The same command mends it; what is missing or short is seen before anything is trained.
    again = (*hard, "--epochs", "2", "--warmup-epochs", "0")
    damages: tuple[Callable[[Path], object], ...] = (
        Path.exists,  # the byte that was changed above
        Path.unlink,
        lambda file: os.truncate(file, 10),
    )
    for damage in damages:
        damage(labels / "epoch00001.labels")
        if damage is not damages[0]:
            assert "teacher_labels are damaged. Found: " in refused()
        assert teach(containers, labels, teacher, *again) == 0
        assert "1 of 2 epochs are there" in capsys.readouterr().err
    assert run_here(containers, tmp_path / "damaged", *given) == 0
    capsys.readouterr()
    (labels / "labels.json").write_text("{")
    assert "labels.json, which is damaged. Delete " in refused()


def test_a_writer_refuses_too(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder of somebody's, a store of other images, a store of another teacher."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    hard = ("--distillation", "hard", "--epochs", "1", "--warmup-epochs", "0")
    assert teach(containers, mine, teacher, *hard) == 2
    assert "must be new, empty or a store. Found: " in capsys.readouterr().err
    assert [file.name for file in mine.iterdir()] == ["thesis.tex"]
    out = tmp_path / "labels"
    assert teach(containers, out, teacher, *hard) == 0
    before = files_of(out)
    lock = FolderLock(out)
    lock.take()
    assert teach(containers, out, teacher, *hard) == 2
    assert "one run at a time can write to a folder. Found: " in capsys.readouterr().err
    lock.let_go()
    assert teach(containers, out, teacher, *hard, "--seed", "1") == 2
    assert "run.seed 0 in the store and 1 here" in capsys.readouterr().err
    assert teach(containers, out, teacher, *hard, "--teacher-image-size", "48") == 2
    assert "a store is of one teacher. Found: " in capsys.readouterr().err
    assert teach(containers, out, teacher, *hard, "--distillation", "soft") == 2
    assert "teacher_top_k 0, which is all" in capsys.readouterr().err
    assert files_of(out) == before
    assert teach(containers, out, teacher, *hard, "--overwrite", "--resume", "never") == 2
    assert "overwrite has no effect in teach" in capsys.readouterr().err
    assert teach(containers, tmp_path / "dry", teacher, *hard, "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["derived"]["num_classes"] == 20
    assert not (tmp_path / "dry").exists()
    data = ["--train", str(containers["beton"]), "--val", str(containers["val"])]
    assert main(["teach", "demo-teacher", *data, "--out", str(out)]) == 2
    assert "teacher must be given, for it is asked" in capsys.readouterr().err


def test_a_distilled_recipe_reads_labels(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As documented: no validation set to teach, no teacher to train."""
    small = [*TINY, "--embed-dim", "48", "--model", "deit_tiny_distilled_patch16_224"]
    small += ["--epochs", "1", "--warmup-epochs", "0"]
    data = ["--train", str(containers["beton"])]
    labels = tmp_path / "labels"
    line = ["teach", "demo", *data, "--teacher", str(teacher), "--out", str(labels), *small]
    assert main(line) == 0
    data += ["--val", str(containers["val"])]
    given = ["--teacher-labels", str(labels), "--out", str(tmp_path / "run")]
    assert main(["train", "demo", *data, *given, *small]) == 0
    assert "ema_heads" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_stop_says_what_goes_on(
    containers: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command, which needs no option for it."""
    from fastdeit.tools.train import teach as command

    def stop(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it should have ended")

    monkeypatch.setattr(command, "ask", stop)
    assert teach(containers, tmp_path / "labels", teacher, "--distillation", "hard") == 75
    said = "stopped at epoch 1, which is not kept; the same command goes on"
    assert said in capsys.readouterr().err


def test_what_is_kept_of_probabilities() -> None:
    """The likeliest, as float16; the rest is spread evenly, and a row adds up to 1."""
    probs = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04], [0.1, 0.1, 0.1, 0.1, 0.6]])
    classes, kept = likeliest(probs, 2)
    assert classes[0].tolist() == [0, 1] and classes[1, 0] == 4
    assert kept.dtype == torch.float16
    dense = dense_probs(classes, kept, 5)
    torch.testing.assert_close(
        dense[0], torch.tensor([0.5, 0.3, 0.2 / 3, 0.2 / 3, 0.2 / 3]), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(dense.sum(1), torch.ones(2), rtol=1e-6, atol=1e-6)
    everything = dense_probs(*likeliest(probs, 9), 5)
    torch.testing.assert_close(everything, probs, rtol=1e-3, atol=1e-4)


def test_rows_hold_every_class() -> None:
    """Two bytes hold 65,536 classes, and no more."""
    config = changed(
        fill_recipe("demo", Path("x")), distill={"teacher": Path("x"), "distillation": "hard"}
    ).distill
    assert row_type(config, 65_536).itemsize == 2
    with pytest.raises(UserError, match=r"up to 65,536 classes\. Found: 65537"):
        row_type(config, 65_537)
