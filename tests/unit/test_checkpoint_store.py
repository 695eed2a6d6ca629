"""The checkpoints of a run: saved in a thread, rotated, found again after any death."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_contents import assert_same, content_of, names, no_skip, save_all, steps
from gpu_waits import DEVICES, no_waiting

from fastdeit import UserError
from fastdeit.checkpoints import store as store_module
from fastdeit.checkpoints.file import FORMAT, load_checkpoint, save_checkpoint
from fastdeit.checkpoints.store import CheckpointStore, is_checkpoint_file, newest_checkpoint


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event before which no checkpoint is written."""
    event = threading.Event()

    def save(*args: Any) -> None:
        assert event.wait(20)
        save_checkpoint(*args)

    monkeypatch.setattr(store_module, "save_checkpoint", save)
    yield event
    event.set()


def test_names_and_rotation(tmp_path: Path) -> None:
    """The newest are kept under their steps' names, the best beside them."""
    save_all(tmp_path, 3, 10, 20, 30, 40, best=10)
    assert steps(tmp_path) == {
        "best.pt": 10,
        "checkpoint-step00000020.pt": 20,
        "checkpoint-step00000030.pt": 30,
        "checkpoint.pt": 40,
    }
    # Another process goes on in the folder, and keeps less.
    save_all(tmp_path, 2, 50, best=50)
    assert steps(tmp_path) == {"best.pt": 50, "checkpoint-step00000040.pt": 40, "checkpoint.pt": 50}
    assert (tmp_path / "best.pt").samefile(tmp_path / "checkpoint.pt")
    save_all(tmp_path, 1, 60)
    assert steps(tmp_path) == {"best.pt": 50, "checkpoint.pt": 60}
    assert all(map(is_checkpoint_file, names(tmp_path)))
    assert is_checkpoint_file(".checkpoint.pt.partial")
    assert not is_checkpoint_file("checkpoint-steps.pt")


def test_a_step_that_is_saved_twice_is_kept_once(tmp_path: Path) -> None:
    """A second save of a step takes the place of the first, not of the one before."""
    save_all(tmp_path, 2, 10, 20, 20)
    save_all(tmp_path, 2, 20)
    assert steps(tmp_path) == {"checkpoint-step00000010.pt": 10, "checkpoint.pt": 20}


def test_the_saved_values_are_those_of_the_call(tmp_path: Path, held: threading.Event) -> None:
    """Tensors changed right after the call are in the file as they were, shared memory too."""
    base = torch.arange(36.0).reshape(6, 6)
    parameter = torch.nn.Parameter(torch.ones(3, 2, 4, 4).to(memory_format=torch.channels_last))
    content: dict[str, Any] = {
        "format": FORMAT,
        "base": base,
        "view": base[1:, ::2],
        "again": base,
        "turned": base.t(),
        "head": base[:2],
        "bits": base.view(torch.int32),
        "wide": torch.ones(1).expand(3),
        "parameter": parameter,
        "none": torch.empty(0, 2),
        "one": torch.tensor(True),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "list": [torch.tensor(1), (torch.tensor(2.0), "x", None)],
    }
    tensors = [base, parameter.data, content["one"], content["half"], content["list"][0]]
    expected = {**content, "step": 7, "base": base.clone(), "again": base.clone()}
    for name in ("view", "turned", "head", "bits", "wide", "one", "half"):
        expected[name] = content[name].clone()
    expected["parameter"] = parameter.detach().clone()
    expected["list"] = [torch.tensor(1), (torch.tensor(2.0), "x", None)]
    with CheckpointStore(tmp_path, 2) as store:
        store.save(content, 7, is_best=False)
        for tensor in tensors:
            tensor.zero_()
        held.set()
    found = load_checkpoint(tmp_path / "checkpoint.pt")
    assert_same(found, expected)
    assert found["parameter"].is_contiguous(memory_format=torch.channels_last)
    assert found["again"].data_ptr() == found["base"].data_ptr()


def test_the_host_memory_is_used_again(tmp_path: Path) -> None:
    """The copies of a second save lie where those of the first did, unless shapes changed."""
    with CheckpointStore(tmp_path, 1) as store:
        places = []
        for step in (1, 2):
            copied, events = store._host.take(content_of(step))
            assert events == []
            assert_same(copied, content_of(step))
            places.append(copied["model"]["w"].data_ptr())
        assert places[0] == places[1]
        assert store._host.num_bytes() == 80
        other = {"w": torch.ones(7), "v": torch.ones(2, 2, dtype=torch.bool), "e": torch.ones(0)}
        assert_same(store._host.take(other)[0], other)
        assert store._host.num_bytes() == 32


def test_blocks_of_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that fill several blocks, one larger than a block, do not run into each other."""
    monkeypatch.setattr("fastdeit.checkpoints.host_copy.BLOCK_BYTES", 256)
    content = {str(n): torch.arange(n, dtype=torch.int16) for n in (1, 40, 90, 500, 3, 64, 128)}
    copied, _ = store_module.HostCopy().take(content)
    assert_same(copied, content)


def test_one_save_at_a_time(tmp_path: Path, held: threading.Event) -> None:
    """The call returns before the file is there; the next one waits for it."""
    with CheckpointStore(tmp_path, 2) as store:
        store.save(content_of(1), 1, is_best=False)
        assert names(tmp_path) == []
        timer = threading.Timer(0.2, held.set)
        timer.start()
        store.save(content_of(2), 2, is_best=False)
        assert held.is_set()
        assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] in (1, 2)
    assert steps(tmp_path) == {"checkpoint-step00000001.pt": 1, "checkpoint.pt": 2}


def test_an_error_of_the_training_does_not_stop_a_save(
    tmp_path: Path, held: threading.Event
) -> None:
    """Leaving by an exception finishes the save that has begun."""
    with pytest.raises(FloatingPointError), CheckpointStore(tmp_path, 2) as store:
        store.save(content_of(1), 1, is_best=True)
        held.set()
        raise FloatingPointError
    assert steps(tmp_path) == {"best.pt": 1, "checkpoint.pt": 1}


def damage(path: Path, step: int) -> bytes:
    """Change one weight of a file by one bit; gives the new bytes."""
    data = bytearray(path.read_bytes())
    place = data.find(struct.pack("<2f", step, step))
    assert place > 0
    data[place] ^= 1
    path.write_bytes(data)
    return bytes(data)


def test_damaged_ones_are_skipped(tmp_path: Path) -> None:
    """The newest that is whole is found, what was skipped is said, and nothing is changed."""
    assert newest_checkpoint(tmp_path, no_skip) is None
    assert newest_checkpoint(tmp_path / "missing", no_skip) is None
    save_all(tmp_path, 3, 10, 20, 30)
    found = newest_checkpoint(tmp_path, no_skip)
    assert found is not None
    assert found[1] == tmp_path / "checkpoint.pt"
    assert_same(found[0], content_of(30))

    before = {"checkpoint.pt": damage(tmp_path / "checkpoint.pt", 30)}
    older = tmp_path / "checkpoint-step00000020.pt"
    older.write_bytes(older.read_bytes()[:100])
    before[older.name] = older.read_bytes()
    said: list[str] = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found[1] == tmp_path / "checkpoint-step00000010.pt"
    assert_same(found[0], content_of(10))
    assert [text.split(" ")[0] for text in said] == ["checkpoint.pt", older.name]
    assert all("is skipped: checkpoint cannot be read" in text for text in said)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_none_that_is_whole(tmp_path: Path) -> None:
    """Where every checkpoint is damaged, one error names them all."""
    save_all(tmp_path, 2, 10, 20)
    damage(tmp_path / "checkpoint.pt", 20)
    damage(tmp_path / "checkpoint-step00000010.pt", 10)
    said: list[str] = []
    with pytest.raises(UserError, match=r"none of checkpoint.pt, checkpoint-step00000010.pt in "):
        newest_checkpoint(tmp_path, said.append)
    assert len(said) == 2


def test_a_damaged_newest_takes_no_place(tmp_path: Path) -> None:
    """A run that goes on from an older one does not keep the damaged one in its stead."""
    save_all(tmp_path, 2, 10, 20)
    damage(tmp_path / "checkpoint.pt", 20)
    save_all(tmp_path, 2, 15)
    assert steps(tmp_path) == {"checkpoint-step00000010.pt": 10, "checkpoint.pt": 15}


def test_a_run_without_checkpoint_pt_goes_on(tmp_path: Path) -> None:
    """Where links are not possible, a kill can leave the older one only, which is found."""
    save_all(tmp_path, 2, 10)
    (tmp_path / "checkpoint.pt").rename(tmp_path / "checkpoint-step00000010.pt")
    found = newest_checkpoint(tmp_path, no_skip)
    assert found is not None
    assert found[0]["step"] == 10


def test_another_step_than_the_contents_is_refused(tmp_path: Path) -> None:
    """The step that names the file is the one in it."""
    with CheckpointStore(tmp_path, 2) as store:
        with pytest.raises(ValueError, match=r"step must be the content's, 10. Found: 20"):
            store.save(content_of(10), 20, is_best=False)
        with pytest.raises(TypeError, match=r"Found: PosixPath at checkpoint\.out"):
            store.save({**content_of(10), "out": tmp_path}, 10, is_best=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", DEVICES)
def test_saving_does_not_wait(name: str, tmp_path: Path) -> None:
    """On a GPU nothing is waited for, and what the stream does later is not in the file."""
    device = torch.device(name)
    is_gpu = name == "cuda"
    weights = torch.randn(3, 64, 8, 8, device=device).to(memory_format=torch.channels_last)
    moments = torch.randn(1 << 20, device=device)
    content = {
        "format": FORMAT,
        "weights": weights,
        "moments": moments,
        "part": moments[::2],
        "again": weights,
        "scale": torch.tensor(3.0, device=device),
        "on_host": torch.ones(3),
    }
    other = torch.ones(2048 if is_gpu else 8, 2048 if is_gpu else 8, device=device)
    with CheckpointStore(tmp_path, 2) as store:
        for step in (1, 2):  # the second one uses the pinned memory of the first again
            expected = {
                name: value.cpu().clone() if isinstance(value, torch.Tensor) else value
                for name, value in content.items()
            }
            store.wait()
            with no_waiting(device):
                if step == 2:
                    for _ in range(200):  # the stream is busy, so that the copies are late
                        other = other @ other / len(other)
                started = torch.cuda.Event() if is_gpu else None
                if started is not None:
                    started.record()
                store.save(content, step, is_best=False)
                if started is not None and step == 2:
                    assert not started.query(), "the call came back after the stream's work"
                weights.zero_()
                moments.add_(1)
            store.wait()
            found = load_checkpoint(tmp_path / "checkpoint.pt")
            assert_same(found, {**expected, "step": step})
