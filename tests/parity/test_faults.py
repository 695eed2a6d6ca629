"""What goes wrong, through every engine: bad images, failing threads, epochs left early."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import CUT_OFF, KINDS, NO_JPEG, REMARKED, with_bad_images
from engines import ENGINES, drawn, make_plan
from jobs import in_session
from nightly import nightly, often

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.open import open_pipeline

SKIP = PipelineOptions(threads=2, bad_images="skip")


@pytest.fixture(scope="module")
def val(containers: dict[str, Path]) -> DatasetIndex:
    """The 40 validation images."""
    return open_dataset(containers["val"])


@pytest.fixture(scope="module")
def four_bad(val: DatasetIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bad samples, two of which follow each other in the order of the keys."""
    order = np.argsort(val.keys)
    bad = {3: CUT_OFF, int(order[20]): NO_JPEG, int(order[21]): CUT_OFF, int(order[-1]): REMARKED}
    return with_bad_images(val, tmp_path_factory.mktemp("four"), bad)


def epoch(path: Path, engine: Any, options: PipelineOptions, **changes: Any) -> list[Batch]:
    """One epoch's batches."""
    index = open_dataset(path)
    with open_pipeline(index, make_plan(index, **changes), engine, options) as batches:
        return list(batches)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_image_stops_with_its_name(
    engine: Any, kind: str, val: DatasetIndex, tmp_path: Path
) -> None:
    """An image that does not decode ends the pass with its file, key and reason."""
    path = with_bad_images(val, tmp_path, {11: kind})
    assert val.names is not None
    name, key = val.names[11], f"{int(val.keys[11]):016x}"
    message = rf"an image does not decode. Found: .*{name}, sample 11, key {key} \(.+\)"
    with pytest.raises(UserError, match=message):
        epoch(path, engine, PipelineOptions(threads=2), is_training=False)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_bad_images_are_replaced(
    engine: Any,
    is_training: bool,
    four_bad: Path,
    val: DatasetIndex,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `skip` the next good image in the order of the keys stands there, as itself."""
    order = np.argsort(val.keys)
    places = np.argsort(order)
    neighbours = {
        3: int(order[(places[3] + 1) % 40]),
        int(order[20]): int(order[22]),
        int(order[21]): int(order[22]),
        int(order[-1]): int(order[0]),
    }
    changes = {"is_training": is_training, "batch_size": 8, "repeats": 1}
    plan = make_plan(val, **changes)
    index = open_dataset(four_bad)
    with (
        caplog.at_level(logging.WARNING),
        open_pipeline(index, make_plan(index, **changes), engine, SKIP) as batches,
    ):
        found = list(batches)
        # Once they are known, the neighbours are asked of the engine, not drawn afterwards.
        monkeypatch.setattr(batches.replacements, "draw", None)
        again = list(batches)
        assert batches.replacements.by_sample == neighbours
        shown = sum(
            int(np.isin(step.samples, list(neighbours)).sum())
            for number in (0, 1)
            for step in plan.steps(number)
        )
        assert batches.replacements.num_shown == shown > 0
    assert sum("an image does not decode" in record.message for record in caplog.records) == 4
    for number, batches_of_epoch in enumerate((found, again)):
        steps = list(plan.steps(number))
        assert len(batches_of_epoch) == len(steps)
        for batch, step in zip(batches_of_epoch, steps, strict=True):
            samples = [neighbours.get(int(sample), int(sample)) for sample in step.samples]
            assert batch.sample_keys.tolist() == val.keys[samples].tolist()
            assert batch.labels.tolist() == val.labels[samples].tolist()
            assert batch.copies.tolist() == step.copies.tolist()
            assert torch.equal(batch.images_nhwc_u8, drawn(val, plan, step, samples))


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_but_bad_images(engine: Any, val: DatasetIndex, tmp_path: Path) -> None:
    """A dataset of which nothing decodes is an error, not a search without end."""
    path = with_bad_images(val, tmp_path, dict.fromkeys(range(40), NO_JPEG))
    with pytest.raises(UserError, match=r"must hold an image that decodes. Found: none in"):
        epoch(path, engine, SKIP)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rank_without_samples(engine: Any, val: DatasetIndex) -> None:
    """The last step of evaluation may leave a rank none; every rank has as many steps."""
    assert len(val) % 11 == 7
    seen = []
    for rank in range(8):
        plan = {"is_training": False, "batch_size": 11, "world_size": 8, "rank": rank}
        batches = epoch(val.path, engine, PipelineOptions(threads=1), **plan)
        assert len(batches) == 4
        if rank == 0:
            assert batches[-1].images_nhwc_u8.shape == (0, 48, 48, 3)
            assert len(batches[-1].labels) == len(batches[-1].sample_keys) == 0
        seen += [int(key) for batch in batches for key in batch.sample_keys]
    assert sorted(seen) == sorted(val.keys.tolist())


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_of_one(engine: Any, val: DatasetIndex) -> None:
    """A batch of one image, at which FFCV's own squeezed labels break (ffcv#186, #287, #330)."""
    batches = epoch(val.path, engine, PipelineOptions(threads=2), batch_size=1, repeats=1)
    assert len(batches) == 40
    assert all(batch.images_nhwc_u8.shape == (1, 48, 48, 3) for batch in batches)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_in_a_thread_arrives(
    engine: Any, val: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails where the batches are asked for reaches the caller within 5 s."""
    with open_pipeline(val, make_plan(val, batch_size=4), engine, SKIP) as batches:
        next(iter(batches))  # compiled, started
        requests = batches._requests

        def fail_later(steps: Any) -> Any:
            yield from itertools.islice(requests(steps), 3)
            raise ZeroDivisionError("planted")

        monkeypatch.setattr(batches, "_requests", fail_later)
        started = time.perf_counter()
        with pytest.raises((ZeroDivisionError, RuntimeError), match="planted"):
            list(batches)
        assert time.perf_counter() - started < 5


def open_files() -> int:
    """How many file handles this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def memory() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_leaving_many_epochs_early(engine: Any, val: DatasetIndex) -> None:
    """Threads, memory and file handles are as they were (ffcv#345, #393)."""
    with open_pipeline(val, make_plan(val, batch_size=8), engine, SKIP) as batches:
        for number in range(often(60, 1000)):
            for _batch in batches:
                break
            batches.load_state_dict({"epoch": number, "step": 0})
            if number == 20:
                gc.collect()
                before = threading.active_count(), open_files(), memory()
        gc.collect()
    assert threading.active_count() <= before[0]
    assert open_files() <= before[1]
    assert memory() - before[2] < 20e6


def program_file(engine: str, containers: dict[str, Path], body: str) -> Path:
    """A program that does something with each batch of an epoch."""
    file = containers["beton"].with_name(f"program_{engine}.py")
    file.write_text(f"""
import time
import zlib
from pathlib import Path
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import open_pipeline
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.plan.order import Plan

if __name__ == "__main__":
    index = open_dataset(Path({str(containers["beton"])!r}))
    plan = Plan(keys=index.keys, batch_size=8, image_size=32, is_training=True)
    batches = open_pipeline(index, plan, {engine!r}, PipelineOptions(threads=2))
    for batch in batches:
        {body}
""")
    return file


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_that_ends_in_the_middle_ends(engine: str, containers: dict[str, Path]) -> None:
    """A script that leaves an epoch and returns does not hang at its end, nor print anything."""
    file = program_file(engine, containers, "break")
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "engine",
    [
        "pil",  # the one with workers
        pytest.param("ffcv", marks=[pytest.mark.ffcv, nightly]),
        pytest.param("dali", marks=[pytest.mark.dali, nightly]),
    ],
)
def test_a_killed_program_leaves_no_workers(engine: str, containers: dict[str, Path]) -> None:
    """SIGKILL of a program in the middle of an epoch ends its workers too."""
    file = program_file(engine, containers, "print('here', flush=True); time.sleep(60)")
    program = subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "here\n"
        program.kill()
    deadline = time.perf_counter() + 10
    while in_session(program.pid) and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert in_session(program.pid) == []


@pytest.mark.ffcv
def test_more_threads_than_cores(val: DatasetIndex) -> None:
    """FFCV is never asked for more threads than numba can start (ffcv#357, #382)."""
    import numba

    many = numba.config.NUMBA_NUM_THREADS + 7
    with open_pipeline(val, make_plan(val), "ffcv", PipelineOptions(threads=many)) as batches:
        assert len(list(batches)) == len(batches)


@pytest.mark.ffcv
def test_ffcv_has_one_operation(val: DatasetIndex) -> None:
    """FFCV groups what numba compiles, and loops for ever over some orders of two (ffcv#396)."""
    from fastdeit.pipelines.engines.ffcv_engine import FfcvPipeline

    opened: Any = FfcvPipeline(val, make_plan(val), SKIP)
    with opened as batches:
        assert list(batches._loader.pipeline_specs) == ["image"]
        (operation,) = batches._loader.pipeline_specs["image"].transforms or [batches._decoder]
        assert operation is batches._decoder
