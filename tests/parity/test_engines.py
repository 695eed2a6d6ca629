"""FFCV, DALI and PIL hand out the same bytes; their real clients read what we write."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES, SIDE, make_plan

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import choose_engine, open_pipeline

PAIRS = [
    pytest.param("ffcv", "beton", marks=pytest.mark.ffcv),
    pytest.param("dali", "beton", marks=pytest.mark.dali),
    pytest.param("dali", "webdataset", marks=pytest.mark.dali),
    pytest.param("dali", "imagefolder", marks=pytest.mark.dali),
    pytest.param("pil", "webdataset"),
]


def epoch(path: Path, engine: Any, is_training: bool = True, **changes: Any) -> list[Batch]:
    """One epoch's batches."""
    index = open_dataset(path)
    with open_pipeline(
        index, make_plan(index, is_training, **changes), engine, PipelineOptions(threads=2)
    ) as batches:
        return list(batches)


@pytest.fixture(scope="module")
def reference(containers: dict[str, Path]) -> dict[bool, list[Batch]]:
    """What PIL hands out from the .beton, training and evaluation."""
    return {mode: epoch(containers["beton"], "pil", mode) for mode in (True, False)}


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(("engine", "container"), PAIRS)
def test_engines_are_equal_to_pil(
    engine: str,
    container: str,
    is_training: bool,
    containers: dict[str, Path],
    reference: dict[bool, list[Batch]],
) -> None:
    """Order, keys, copies, labels and every byte agree; in evaluation the small last batch too.

    Images that were encoded again at conversion are compared between containers only.
    """
    found = epoch(containers[container], engine, is_training)
    expected = reference[is_training]
    if not is_training and container == "imagefolder":
        pytest.skip("evaluation goes by the place in the container, a folder's is another")
    again = {
        entry["name"]
        for entry in open_dataset(containers["beton"]).made_by["irregular"]
        if "encoded again" in entry["reason"]
    }
    index = open_dataset(containers["beton"])
    assert index.names is not None
    skipped = {
        key
        for key, name in zip(index.keys.tolist(), index.names, strict=True)
        if name in again and container == "imagefolder"
    }
    assert len(found) == len(expected) == (6 if is_training else 8)
    for left, right in zip(found, expected, strict=True):
        assert left.sample_keys.tolist() == right.sample_keys.tolist()
        assert left.copies.tolist() == right.copies.tolist()
        assert torch.equal(left.labels, right.labels)
        assert (left.epoch, left.step) == (right.epoch, right.step)
        kept = torch.tensor([key not in skipped for key in left.sample_keys.tolist()])
        difference = (left.images_nhwc_u8[kept].int() - right.images_nhwc_u8[kept].int()).abs()
        assert difference.max() == 0, (difference.max(), difference.float().mean())


@pytest.mark.parametrize("engine", ENGINES)
def test_crops_are_those_of_torchvision(engine: str, containers: dict[str, Path]) -> None:
    """Evaluation through an engine gives torchvision's Resize and CenterCrop of PIL's image."""
    from torchvision import transforms

    index = open_dataset(containers["val"])
    transform = transforms.Compose(
        [
            transforms.Resize(
                int(SIDE / 0.875), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.CenterCrop(SIDE),
        ]
    )
    images = torch.cat([b.images_nhwc_u8 for b in epoch(containers["val"], engine, False)])
    for sample in range(len(index)):
        expected = np.asarray(transform(decode_with_pil(index, sample)))
        assert np.array_equal(images[sample].numpy(), expected), index.describe(sample)


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_is_exact(
    engine: Any, containers: dict[str, Path], reference: dict[bool, list[Batch]]
) -> None:
    """A pipeline left in the middle of an epoch goes on there, in itself and in another one."""
    index = open_dataset(containers["beton"])
    with open_pipeline(index, make_plan(index), engine, PipelineOptions(threads=2)) as batches:
        for number, batch in enumerate(batches):
            assert torch.equal(batch.images_nhwc_u8, reference[True][number].images_nhwc_u8)
            if number == 1:
                break
        position = batches.state_dict()
        assert position == {"epoch": 0, "step": 2}
        rest = list(batches)
        assert batches.state_dict() == {"epoch": 1, "step": 0}
        second_epoch = next(iter(batches))
    with open_pipeline(index, make_plan(index), engine, PipelineOptions(threads=1)) as other:
        other.load_state_dict(position)
        rest_of_other = list(other)
    for found in (rest, rest_of_other):
        assert len(found) == 4
        for left, right in zip(found, reference[True][2:], strict=True):
            assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)
    assert second_epoch.epoch == 1
    assert not torch.equal(second_epoch.images_nhwc_u8, reference[True][0].images_nhwc_u8)


@pytest.mark.parametrize("engine", ENGINES)
def test_going_on_with_other_processes(
    engine: Any, containers: dict[str, Path], reference: dict[bool, list[Batch]]
) -> None:
    """A position taken by one process is gone on from by three: together, the same batches."""
    index = open_dataset(containers["beton"])
    with open_pipeline(index, make_plan(index), engine, PipelineOptions(threads=1)) as batches:
        list(zip(range(2), batches, strict=False))
        position = batches.state_dict()
    parts = []
    for rank in range(3):
        plan = make_plan(index, rank=rank, world_size=3)
        with open_pipeline(index, plan, engine, PipelineOptions(threads=1)) as batches:
            batches.load_state_dict(position)
            parts.append(list(batches))
    together = list(zip(*parts, strict=True))
    first = position["step"]
    assert len(together) == 6 - first > 0
    for ranks, whole in zip(together, reference[True][first:], strict=True):
        assert torch.equal(torch.cat([b.images_nhwc_u8 for b in ranks]), whole.images_nhwc_u8)
        assert torch.equal(torch.cat([b.labels for b in ranks]), whole.labels)
        keys = [key for b in ranks for key in b.sample_keys.tolist()]
        assert keys == whole.sample_keys.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_are_not_written_again(
    engine: Any, containers: dict[str, Path], reference: dict[bool, list[Batch]]
) -> None:
    """Batches kept to the end of the epoch still hold their images (FFCV reuses its memory)."""
    kept = epoch(containers["beton"], engine)
    for left, right in zip(kept, reference[True], strict=True):
        assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_ends_an_open_pass(
    engine: Any, containers: dict[str, Path], reference: dict[bool, list[Batch]]
) -> None:
    """Closing under a pass that an exception left open ends its threads; a new pass ends the old.

    Freeing a decoder under FFCV's running thread would end the process.
    """
    index = open_dataset(containers["beton"])
    before = threading.active_count()
    with open_pipeline(index, make_plan(index), engine, PipelineOptions(threads=2)) as batches:
        first, second = iter(batches), iter(batches)
        next(first)
        again = next(second)  # the position moved on by one
        assert torch.equal(again.images_nhwc_u8, reference[True][1].images_nhwc_u8)
        with pytest.raises(RuntimeError, match="ended by a newer one"):
            next(first)
    with pytest.raises(RuntimeError, match="ended by a newer one, or by close"):
        next(second)
    # The feeders of a DataLoader's queues end a moment after its workers; tqdm may start a monitor.
    deadline = time.perf_counter() + 20
    while threading.active_count() > before + 1 and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before + 1, threading.enumerate()


@pytest.mark.ffcv
def test_an_error_in_ffcvs_thread_arrives(containers: dict[str, Path]) -> None:
    """An exception in FFCV's thread reaches the reader, who would wait for ever in FFCV itself."""
    from fastdeit.pipelines.engines.ffcv_engine import FfcvPipeline

    index = open_dataset(containers["beton"])
    with FfcvPipeline(index, make_plan(index), PipelineOptions(threads=2)) as batches:

        def fail(*args: Any) -> Any:
            raise ZeroDivisionError("planted")

        loader: Any = batches
        loader._loader.memory_manager.context.start_batch = fail
        started = time.perf_counter()
        with pytest.raises(ZeroDivisionError, match="planted"):
            next(iter(batches))
        assert time.perf_counter() - started < 5


@pytest.mark.ffcv
@pytest.mark.parametrize("threads", [1, 2])
def test_ffcv_leaves_torchs_threads_alone(threads: int, containers: dict[str, Path]) -> None:
    """A loader's number of threads does not become torch's, as FFCV itself would make it."""
    index = open_dataset(containers["beton"])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with open_pipeline(
            index, make_plan(index), "ffcv", PipelineOptions(threads=threads)
        ) as batches:
            list(batches)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.ffcv
def test_we_read_ffcvs_beton(tmp_path: Path) -> None:
    """A .beton of FFCV's own writer opens, with JPEG and raw images, and is equal to PIL."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 80, 3), dtype=np.uint8)

    class Noise:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, number: int) -> tuple[Any, int]:
            return pixels[number], number % 7

    for mode in ("jpg", "raw"):
        path = tmp_path / f"{mode}.beton"
        fields = {"image": RGBImageField(write_mode=mode), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Noise())
        index = open_dataset(path)
        assert index.labels.tolist() == [number % 7 for number in range(30)]
        assert index.class_names == ("0", "1", "2", "3", "4", "5", "6")
        if mode == "raw":
            assert np.array_equal(np.asarray(decode_with_pil(index, 3)), pixels[3])
        expected = epoch(path, "pil", True, batch_size=10)
        for left, right in zip(epoch(path, "ffcv", True, batch_size=10), expected, strict=True):
            assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)


@pytest.mark.ffcv
def test_ffcv_refuses_other_containers(containers: dict[str, Path]) -> None:
    """Asking FFCV for shards is one clear error with the way out."""
    with pytest.raises(UserError, match=r"engine ffcv reads .beton files only. Found: .*--engine"):
        epoch(containers["webdataset"], "ffcv")


def test_auto_names_its_reason(
    containers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FFCV and DALI the choice falls on PIL, and says why."""
    import fastdeit.pipelines.open as module

    monkeypatch.setattr(module, "is_installed", {"pil", "dali"}.__contains__)
    assert choose_engine(open_dataset(containers["beton"])).name == "dali"
    monkeypatch.setattr(module, "is_installed", {"pil"}.__contains__)
    choice = choose_engine(open_dataset(containers["beton"]))
    assert choice.name == "pil"
    assert "FFCV is not installed; DALI is not installed" in choice.reason
