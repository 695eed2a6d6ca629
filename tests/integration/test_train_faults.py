"""Faults of the disk, the data and the numbers: a run ends as described, and goes on exactly."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_images import CUT_OFF, with_bad_images
from jobs import MIXED, TINY, Job, assert_same_run, checkpoints, run_here
from nightly import nightly

from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.config import RunConfig
from fastdeit.files import LOCK
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.open import train_plan
from fastdeit.recipes import fill_recipe
from fastdeit.training.session import Session

pytestmark = pytest.mark.slow


Hook = Callable[[Session], None]


def errors_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The error lines; there is no traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("fastdeit: error")]


# ---- the disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    made = subprocess.run(line, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk cannot be made: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(
    small_disk: Path,
    whole_run: Path,
    containers: dict[str, Path],
    at_step: Callable[[int, Hook], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A save that finds no room ends the run in one line; what is there is whole, and goes on."""
    out, filler = small_disk / "run", small_disk / "filler"

    def fill(session: Session) -> None:
        del session
        # Without a buffer, which would be written once more at the end.
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 16))

    at_step(5, fill)
    assert run_here(containers, out) == 2
    (error,) = errors_of(capsys)
    assert error.startswith(f"fastdeit: error: {out}/checkpoint.pt: No space left on device while ")
    assert "while step 6 was saved; the one before it is as it was" in error
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 4
    assert [file.name for file in out.glob(".*")] == [LOCK]  # no half-written file
    filler.unlink()
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


@pytest.mark.parametrize(("room", "file"), [(3000, "checkpoint.pt"), (20, "metrics.jsonl")])
def test_a_file_that_cannot_be_written(
    room: int,
    file: str,
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever file it is: one line names it, half a row does no harm, the run goes on exactly."""
    out = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(session: Session) -> None:
        del session
        most = (out / "metrics.jsonl").stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    at_step(5, limit)
    try:
        assert run_here(containers, out) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (error,) = errors_of(capsys)
    assert error.startswith(f"fastdeit: error: {out}/{file}: File too large")
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 4
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "emptied": lambda path: os.truncate(path, 0),
}


def copy_of(half_run: Path, tmp_path: Path) -> Path:
    """A run that ended early, each file on its own."""
    return Path(shutil.copytree(half_run, tmp_path / "run"))


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(name, marks=nightly) for name in ("cut", "emptied"))]
)
def test_a_damaged_checkpoint_is_skipped(
    damage: str,
    half_run: Path,
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file and what is wrong with it are named; the one before it leads to the same end."""
    out = copy_of(half_run, tmp_path)
    newest = out / "checkpoint.pt"
    DAMAGES[damage](newest)
    found = f"Found: {newest} ({newest.stat().st_size} bytes; "
    assert run_here(containers, out) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    start = "fastdeit: checkpoint.pt is skipped: checkpoint cannot be read. "
    assert line.startswith(start + found)
    assert_same_run(out, whole_run)


def test_nothing_but_damaged_checkpoints(
    half_run: Path, containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error names them all, and no file is touched."""
    out = copy_of(half_run, tmp_path)
    for path, damage in zip(checkpoints(out), DAMAGES.values(), strict=True):
        damage(path)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run_here(containers, out) == 2
    (error,) = errors_of(capsys)
    names = ", ".join(path.name for path in checkpoints(out))
    assert f"Found: none of {names} in {out} can. Copy a whole one, best.pt say" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_checkpoints_without_the_newest_are_a_run_too(
    half_run: Path, containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are no links, a kill may leave the older ones only: they are not cleared away."""
    out = copy_of(half_run, tmp_path)
    (out / "checkpoint.pt").unlink()
    before = sorted(path.name for path in out.iterdir())
    assert run_here(containers, out, "--resume", "never") == 2
    assert "Pass --resume auto to go on, --overwrite to replace it" in errors_of(capsys)[0]
    assert sorted(path.name for path in out.iterdir()) == before


# ---- the data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The containers, with one image cut off that is first needed in step 8."""
    index = open_dataset(containers["beton"])
    recipe = fill_recipe("demo-teacher", Path("x"))
    batch = int(TINY[TINY.index("--batch-size") + 1])
    data = type(recipe.data)(**{**_fields(recipe.data), "batch_size": batch})
    plan = train_plan(data, index, RunConfig(out=Path("x")))
    shown = [step.samples for epoch in range(2) for step in plan.steps(epoch)]
    seen = {int(sample) for samples in shown[:7] for sample in samples}
    (sample, *_) = sorted({int(sample) for sample in shown[7]} - seen)
    path = with_bad_images(index, tmp_path_factory.mktemp("bad"), {sample: CUT_OFF})
    return {**containers, "beton": path, "sample": sample}


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def name_of(index: DatasetIndex, sample: int) -> str:
    """As an error names it."""
    return f"an image does not decode. Found: {index.describe(sample)} ("


@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_that_does_not_decode(processes: int, bad: dict[str, Any], tmp_path: Path) -> None:
    """It ends every process within seconds, and is named; with --bad-images skip it goes on."""
    out, expected = tmp_path / "run", tmp_path / "expected"
    job = Job(bad, out, *MIXED, processes=processes)
    job.wait_for_step(6)
    code = job.end(30)
    assert code == (2 if processes == 1 else 1)
    text = job.text()
    assert text.count(name_of(open_dataset(bad["beton"]), bad["sample"])) == 1
    if processes == 2:
        assert "lost another one" in text
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 6
    job = Job(bad, out, *MIXED, "--bad-images", "skip", processes=processes)
    assert job.end() == 0, job.text()
    assert '"images_replaced": 1' in job.text()
    job = Job(bad, expected, *MIXED, "--bad-images", "skip", processes=processes)
    assert job.end() == 0, job.text()
    assert_same_run(out, expected)


# ---- the numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "text", "saved"),
    [
        (5, "loss must be finite. Found: nan at step 4 to 6, learning rate 0.00233. Lower", 4),
        pytest.param(
            6,
            "weights must be finite. Found: nan at step 5 to 6, learning rate 0.00233. Lower",
            4,
            marks=nightly,
        ),
        (8, "weights must be finite. Found: nan at step 7 to 8, learning rate 0.00137. Lower", 6),
    ],
)
def test_weights_that_are_not_finite_are_not_saved(
    step: int,
    text: str,
    saved: int,
    whole_run: Path,
    containers: dict[str, Path],
    tmp_path: Path,
    at_step: Callable[[int, Hook], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether a step, a due save or an epoch's end comes next: all saved weights are good."""
    out = tmp_path / "run"

    def spoil(session: Session) -> None:
        list(session.model.parameters())[-1].data.view(-1)[3] = float("nan")

    at_step(step, spoil)
    assert run_here(containers, out) == 1
    (error,) = errors_of(capsys)
    assert text in error
    monkeypatch.undo()
    for path in out.glob("*.pt"):
        content = load_checkpoint(path)
        assert content["step"] <= saved
        assert all(bool(value.isfinite().all()) for value in content["model"].values())
    assert load_checkpoint(out / "checkpoint.pt")["step"] == saved
    assert run_here(containers, out) == 0
    assert_same_run(out, whole_run)


def test_two_processes_that_diverge(containers: dict[str, Path], tmp_path: Path) -> None:
    """Both end, the first one at least says why, and nothing bad is saved."""
    out = tmp_path / "run"
    job = Job(containers, out, *MIXED, "--base-lr", "1e30", processes=2)
    assert job.end(60) == 1
    said = [line for line in job.text().splitlines() if line.startswith("fastdeit: error: ")]
    assert len(said) in (1, 2)  # torchrun ends the other when one has ended
    assert all("weights must be finite. Found: nan at step 1 to 2, learn" in line for line in said)
    assert not list(out.glob("*.pt"))
