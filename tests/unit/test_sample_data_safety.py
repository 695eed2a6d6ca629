"""`fastdeit sample-data`: nothing is overwritten, nothing half-made stays, errors help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastdeit.errors import UserError
from fastdeit.tools.data.sample_data import command, photos, scenes
from fastdeit.tools.data.sample_data.command import MARKER, RECORD, sample_data
from fastdeit.tools.data.sample_data.scenes import Picture, make_picture
from fastdeit.tools.data.workers import in_chunks, ordered_map

for module in ("skimage", "sklearn"):
    pytest.importorskip(module, reason=f"the photographs of {module} are not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the smallest source."""
    root = tmp_path_factory.mktemp("sample") / "source"
    assert sample_data(root, 20, 20, workers=1) == 0
    return root


def contents(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Read every file below `root` and when it was written."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_second_run_does_nothing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same options on the same folder succeed at once and touch no file."""
    before = contents(source)
    assert sample_data(source, 20, 20) == 0
    assert "already there" in capsys.readouterr().err
    assert contents(source) == before


def test_other_options_are_refused(source: Path) -> None:
    """A source made with other options stays, and the error names what differs."""
    before = contents(source)
    with pytest.raises(UserError, match=r"exists\. Found: .*other options \(seed=0\).*remove"):
        sample_data(source, 20, 20, seed=1)
    assert contents(source) == before


@pytest.mark.parametrize("record", [None, "not json", "[]", '{"parameters": 3, "format": 1}'])
def test_foreign_folder_is_refused(tmp_path: Path, record: str | None) -> None:
    """A folder with other files stays as it is, whatever its record says."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("mine")
    if record is not None:
        (tmp_path / "photos" / RECORD).write_text(record)
    with pytest.raises(UserError, match="a folder that this command did not make"):
        sample_data(tmp_path / "photos", 20, 20)
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "mine"
    assert not (tmp_path / "photos.partial").exists()


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the way is named as such."""
    (tmp_path / "here").write_text("mine")
    with pytest.raises(UserError, match="Found: a file"):
        sample_data(tmp_path / "here", 20, 20)


def test_leftovers_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    """A partial folder with the marker is replaced; an empty target is filled."""
    partial = tmp_path / "out.partial"
    (partial / "train").mkdir(parents=True)
    (partial / MARKER).touch()
    (partial / "train" / "left.JPEG").write_text("half")
    (tmp_path / "out").mkdir()
    sample_data(tmp_path / "out", 20, 20, workers=1)
    assert not partial.exists()
    assert not (tmp_path / "out" / MARKER).exists()
    assert len(list((tmp_path / "out").rglob("*.JPEG"))) == 40
    assert not (tmp_path / "out" / "train" / "left.JPEG").exists()


def test_foreign_partial_folder_is_refused(tmp_path: Path) -> None:
    """A folder of that name without the marker is somebody's."""
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").touch()
    with pytest.raises(UserError, match=r"out\.partial.*did not make"):
        sample_data(tmp_path / "out", 20, 20)
    assert (tmp_path / "out.partial" / "mine").exists()


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    """A second run on the same folder is refused while the first is writing."""
    with command.unfinished_folder(tmp_path / "out") as folder:
        with pytest.raises(UserError, match="another process"):
            sample_data(tmp_path / "out", 20, 20)
        assert folder.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Ctrl-C or a fault in the middle leaves neither the folder nor half of it."""

    def fail_at_last(seed: int, picture: Picture) -> bytes:
        if picture.split == "val":
            raise error("stopped")
        return make_picture(seed, picture)

    monkeypatch.setattr(scenes, "make_picture", fail_at_last)
    with pytest.raises(error):
        sample_data(tmp_path / "out", 20, 20, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_exception_of_a_worker_reaches_the_caller() -> None:
    """A fault in another process is raised here with its own type."""
    bad = Picture("nowhere", 0, 0)
    with pytest.raises(ValueError, match="not in tuple"):
        list(ordered_map(make_picture, 0, in_chunks([bad] * 20), workers=2))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"train_images": 19}, r"--train-images must be >= 20.*Found: 19"),
        ({"val_images": 0}, r"--val-images must be >= 20.*Found: 0"),
        ({"seed": -3}, r"--seed must be >= 0\. Found: -3"),
        ({"workers": -1}, r"workers must be 0 or more\. Found: -1"),
    ],
)
def test_unusable_options_are_refused(tmp_path: Path, options: dict[str, int], text: str) -> None:
    """Each error names the option, the value and the rule, and nothing is made."""
    with pytest.raises(UserError, match=text):
        sample_data(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-image the error says what to install and leaves nothing behind."""
    photos.load_photos.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"scikit-image.*pip install 'fastdeit\[sample-data\]'"):
        sample_data(tmp_path / "out", 20, 20)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    """A path below a file cannot be made, and the error says why."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        sample_data(tmp_path / "file" / "out", 20, 20, workers=1)


def test_importing_the_command_loads_nothing_heavy() -> None:
    """`fastdeit --help` imports this module, so it must not import numpy or Pillow."""
    module = "fastdeit.tools.data.sample_data.command"
    code = f"import sys, {module}; print({{'numpy', 'PIL'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
