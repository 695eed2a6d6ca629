"""Checkpoints and death: killed at any call, on a full disk, with the interpreter at its end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_contents import assert_same, content_of, names, no_skip, save_all, steps

from fastdeit.checkpoints import store as store_module
from fastdeit.checkpoints.file import FORMAT, load_checkpoint
from fastdeit.checkpoints.store import CheckpointStore, newest_checkpoint

pytestmark = pytest.mark.slow  # as a whole

CALLS = (
    (os, "fsync"),
    (os, "open"),
    (Path, "open"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "hardlink_to"),
)


def test_the_end_of_the_interpreter_finishes_a_save(tmp_path: Path) -> None:
    """A program that ends without closing the store leaves a whole checkpoint."""
    code = (
        "import sys, time, torch; from pathlib import Path\n"
        "from fastdeit.checkpoints import store as module\n"
        "real = module.save_checkpoint\n"
        "def late(*args): time.sleep(0.3); real(*args)\n"
        "module.save_checkpoint = late\n"
        "store = module.CheckpointStore(Path(sys.argv[1]), 2)\n"
        "store.save({'format': 'fastdeit-checkpoint-1', 'w': torch.ones(3)}, 5, True)\n"
        "raise SystemExit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 3
    assert steps(tmp_path) == {"best.pt": 5, "checkpoint.pt": 5}


def test_a_kill_in_the_middle_of_the_writing(tmp_path: Path) -> None:
    """SIGKILL while the bytes are written leaves the old one, and the next save tidies up."""
    save_all(tmp_path, 2, 1)
    code = (
        "import os, sys, signal, torch; from pathlib import Path\n"
        "from fastdeit.checkpoints import file, store\n"
        "real = file._Sink.write\n"
        "def write(self, data):\n"
        "    if len(data) > 1 << 16:\n"
        "        real(self, data[: len(data) // 2]); self._file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, data)\n"
        "file._Sink.write = write\n"
        "store = store.CheckpointStore(Path(sys.argv[1]), 2)\n"
        "store.save({'format': 'fastdeit-checkpoint-1', 'w': torch.ones(1 << 15)}, 5, True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".checkpoint.pt.partial", "checkpoint.pt"]
    assert (tmp_path / ".checkpoint.pt.partial").stat().st_size > 1 << 15
    found = newest_checkpoint(tmp_path, no_skip)
    assert found is not None
    assert found[0]["step"] == 1
    save_all(tmp_path, 2, 6)
    assert steps(tmp_path) == {"checkpoint-step00000001.pt": 1, "checkpoint.pt": 6}


class Killed(BaseException):
    """The process is dead: nothing that follows reaches the disk."""


def die_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let call number `call` (from 0) of those that change the disk, and all after it, fail.

    Returns:
        Gives how many calls were asked for.
    """
    count = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > call:
                raise Killed
            return real(*args, **kwargs)

        return wrapped

    for owner, name in CALLS:
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    return lambda: count


@pytest.mark.parametrize("is_best", [False, True])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_kill_at_any_call(
    is_best: bool, links: bool, keep: int, goes_on: bool, tmp_path: Path
) -> None:
    """Whatever call a process dies in, a whole checkpoint is found, and the next save tidies up."""

    def no_links(path: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for call in range(100):
        out = tmp_path / str(call)
        out.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            if not links:
                patch.setattr(Path, "hardlink_to", no_links)
            save_all(out, keep, 10, 20, best=10)
            store = CheckpointStore(out, keep)
            if goes_on:  # else the step of checkpoint.pt is read from it
                store.save(content_of(20), 20, is_best=False)
                store.wait()
            with pytest.MonkeyPatch.context() as deaths:
                num_calls = die_at(call, deaths)
                store.save(content_of(30), 30, is_best)
                store._thread.join()
            survived = num_calls() <= call
            for name, step in steps_of_final_names(out).items():
                assert name in ("checkpoint.pt", "best.pt") or name[-5:-3] == str(step), name
            found = newest_checkpoint(out, no_skip)
            assert found is not None
            assert found[0]["step"] in (20, 30)
            assert_same(found[0], content_of(found[0]["step"]))
            assert steps_of_final_names(out)["best.pt"] in (10, 30)
            save_all(out, keep, 40)
            assert not [name for name in names(out) if name.startswith(".")]
            assert len([name for name in names(out) if name != "best.pt"]) == keep
            assert load_checkpoint(out / "checkpoint.pt")["step"] == 40
            if survived:
                break
    assert survived
    assert call > 5


def steps_of_final_names(out: Path) -> dict[str, int]:
    """As `steps`, without what has no final name."""
    final = [name for name in names(out) if not name.startswith(".")]
    return {name: load_checkpoint(out / name)["step"] for name in final}


@pytest.mark.parametrize("owner_name", [(os, "fsync"), (Path, "replace")], ids=["fsync", "replace"])
@pytest.mark.parametrize("links", [True, False])
def test_a_failing_disk_is_one_line(
    owner_name: tuple[Any, str], links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the thread comes out at the next check, once; the old checkpoint is as it was."""
    save_all(tmp_path, 2, 10)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    owner, name = owner_name
    real = getattr(owner, name)

    def fail(target: Any, *args: Any) -> Any:
        if isinstance(target, Path) and target.name != ".checkpoint.pt.partial":
            return real(target, *args)
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_links(path: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with CheckpointStore(tmp_path, 2) as store:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            if not links:
                patch.setattr(Path, "hardlink_to", no_links)
            store.save(content_of(20), 20, is_best=True)
            store._thread.join()
        with pytest.raises(OSError, match="No space left on device while step 20 was") as caught:
            store.check()
        store.check()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path / "checkpoint.pt")
        assert str(caught.value.strerror).endswith("the one before it is as it was")
        assert (tmp_path / "checkpoint.pt").read_bytes() == before
        assert set(steps(tmp_path).values()) == {10}
        store.save(content_of(30), 30, is_best=False)
    assert steps(tmp_path) == {"checkpoint-step00000010.pt": 10, "checkpoint.pt": 30}


def test_an_error_after_the_save_says_that_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the older ones cannot be removed, the new one is there, and the error says so."""
    save_all(tmp_path, 2, 10, 20)

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("checkpoint-step"):
            raise PermissionError(errno.EACCES, "Permission denied")

    store = CheckpointStore(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        store.save(content_of(30), 30, is_best=False)
        with pytest.raises(PermissionError, match=r"were put in order; step 30 is saved"):
            store.wait()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 30


def test_after_an_error_between_name_and_disk_steps_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose name may not survive is not called "as it was", and keeps its step."""

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with CheckpointStore(tmp_path, 2) as store:
        store.save(content_of(10), 10, is_best=False)
        store.wait()
        with monkeypatch.context() as patch:
            patch.setattr("fastdeit.files.sync_folder", fail)
            store.save(content_of(20), 20, is_best=False)
            with pytest.raises(OSError, match=r"Input/output error while step 20 was saved: "):
                store.wait()
        store.save(content_of(30), 30, is_best=False)
    assert steps(tmp_path) == {"checkpoint-step00000020.pt": 20, "checkpoint.pt": 30}


def test_an_error_of_the_save_does_not_hide_one_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stopped the training is raised, and that the checkpoint failed is a warning."""

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "save_checkpoint", fail)
    with pytest.warns(RuntimeWarning, match="No space left on device while step 1 was saved: "):
        with pytest.raises(FloatingPointError), CheckpointStore(tmp_path, 2) as store:
            store.save(content_of(1), 1, is_best=False)
            raise FloatingPointError
    with pytest.raises(OSError, match="No space left"), CheckpointStore(tmp_path, 2) as store:
        store.save(content_of(1), 1, is_best=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no program mount")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """On a disk that is too small for a second one, the first stays, whole and alone."""
    first = {"format": FORMAT, "w": torch.ones(40_000)}
    with CheckpointStore(small_disk, 2) as store:
        store.save(first, 1, is_best=True)
        store.save({"format": FORMAT, "w": torch.zeros(40_000)}, 2, is_best=True)
        with pytest.raises(OSError, match="No space left on device while step 2 was") as caught:
            store.wait()
        assert caught.value.errno == errno.ENOSPC
        assert names(small_disk) == ["best.pt", "checkpoint.pt"]
        assert_same(load_checkpoint(small_disk / "checkpoint.pt"), {**first, "step": 1})
        store.save({"format": FORMAT, "w": torch.zeros(10)}, 3, is_best=False)
    assert steps(small_disk)["checkpoint.pt"] == 3
