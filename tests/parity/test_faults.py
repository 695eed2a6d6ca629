"""What goes wrong, through every engine: bad images, failing threads, epochs left early."""

from __future__ import annotations

import gc
import io
import itertools
import logging
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import CUT_OFF, KINDS, NO_JPEG, REMARKED, beton_of, with_bad_images
from engines import ENGINES, make_plan
from jobs import in_session
from nightly import nightly, often
from PIL import Image

from fastdeit import UserError
from fastdeit.batch import Batch
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
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


def drawn(index: DatasetIndex, plan: Any, step: Any, samples: list[int]) -> torch.Tensor:
    """What PIL draws for these samples at the places of a step."""
    from fastdeit.pipelines.engines.pil_engine import resample_with_pil
    from fastdeit.pipelines.plan.crops import plan_cuts
    from fastdeit.pipelines.plan.order import StepPlan

    changed = StepPlan(step.epoch, step.step, np.array(samples), step.copies)
    cuts = plan_cuts(plan, index, changed)
    images = [
        resample_with_pil(decode_with_pil(index, sample), cut, plan.image_size)
        for sample, cut in zip(samples, cuts, strict=True)
    ]
    return torch.from_numpy(np.stack(images))


def png_without_end(pixels: Any) -> bytes:
    """A PNG with all of its pixels, whose stream does not end behind them."""
    height, width = pixels.shape[:2]
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(b"\0" + row.tobytes()) for row in pixels)
    packed += packer.flush(zlib.Z_SYNC_FLUSH)
    made = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


@pytest.mark.dali
def test_an_image_that_only_dali_refuses(
    val: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decoded by PIL, and DALI is spared it from then on; the others stay DALI's."""
    from fastdeit.pipelines.engines.dali_engine import DaliPipeline

    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(val.read(number))
    (folder / "3.jpg").write_bytes(png_without_end(np.asarray(decode_with_pil(val, 7))))
    index = open_dataset(tmp_path)
    plan = make_plan(index, is_training=False, batch_size=2)
    with open_pipeline(index, plan, "pil", PipelineOptions(threads=1)) as batches:
        expected = list(batches)
    opened: Any = DaliPipeline(index, plan, PipelineOptions(threads=2))
    with opened as batches:
        for _ in range(2):
            found = list(batches)
            assert batches._only_pil == {3}
            for left, right in zip(found, expected, strict=True):
                assert torch.equal(left.images_nhwc_u8, right.images_nhwc_u8)
            monkeypatch.setattr(batches, "_without_dali", None)  # DALI does not fail again


def encoded(image: Image.Image, kind: str, **options: Any) -> tuple[bytes, int, int]:
    """A file of an image, and its size."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue(), *image.size


@pytest.fixture(scope="module")
def foreign(val: DatasetIndex, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """Images that decoders read in different ways; those at the end PIL does not show."""
    photo = decode_with_pil(val, 5)
    turned, (width, height) = photo.transpose(Image.Transpose.ROTATE_180), photo.size
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    plain, cut = encoded(photo, "JPEG"), 200 + len(encoded(photo, "JPEG")[0]) // 2
    data = plain[0]
    huge = bytearray(data)
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    shown = [
        plain,
        encoded(photo, "PNG", save_all=True, append_images=[turned], default_image=False),
        encoded(Image.fromarray(grey), "PNG"),
        encoded(photo, "PNG", transparency=(0, 0, 0)),
        encoded(photo.convert("RGBA"), "PNG"),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo.convert("L"), "JPEG"),
        encoded(photo, "MPO", save_all=True, append_images=[turned]),
        encoded(photo, "WEBP", lossless=True),
        encoded(photo, "TIFF"),
        # A stretch of the scan that is not its own: libjpeg remarks on it, and goes on.
        (data[:cut] + bytes(40) + data[cut + 40 :], width, height),
        (data.replace(b"\xff\xdb", bytes(9) + b"\xff\xdb", 1), width, height),
    ]
    refused = [
        (bytes(huge), 20000, 20000),
        (data, 2 * width, 2 * height),
        (data, width, height - 1),
        (plain[0][:cut], width, height),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", 9, 9),
    ]
    folder = tmp_path_factory.mktemp("foreign")
    numbers = set(range(len(shown), len(shown) + len(refused)))
    return beton_of(shown + refused, folder), numbers


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_shows_what_pil_shows(
    engine: Any, foreign: tuple[Path, set[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """The same images with the same pixels, and the same ones refused, epoch after epoch."""
    path, refused = foreign
    index = open_dataset(path)
    plan = make_plan(index, repeats=2, batch_size=6)
    with open_pipeline(index, plan, engine, SKIP) as batches:
        for _ in range(3):
            for batch, step in zip(list(batches), plan.steps(batches._epoch - 1), strict=True):
                samples = [int(key) for key in batch.sample_keys]  # the keys are the numbers here
                assert refused.isdisjoint(samples)
                assert torch.equal(batch.images_nhwc_u8, drawn(index, plan, step, samples))
        assert set(batches.replacements.by_sample) == refused


@pytest.mark.dali
def test_a_failure_of_dali_itself(val: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that is not about an image is raised."""
    from fastdeit.pipelines.engines.dali_engine import DaliPipeline

    broken: Any = DaliPipeline(val, make_plan(val, batch_size=4), SKIP)
    with broken as batches:

        def fail() -> Any:
            raise RuntimeError("planted")

        monkeypatch.setattr(batches._pipe, "run", fail)
        with pytest.raises(RuntimeError, match="planted"):
            list(batches)


@pytest.mark.ffcv
def test_a_beton_that_is_cut_while_it_is_read(containers: dict[str, Path], tmp_path: Path) -> None:
    """One error names the file; the names in it can still be told."""
    path = tmp_path / "cut.beton"
    shutil.copy(containers["beton"], path)
    index = open_dataset(path)
    name = index.describe(7)
    plan = make_plan(index, batch_size=4, repeats=1)
    with open_pipeline(index, plan, "ffcv", PipelineOptions(threads=2)) as batches:
        next(iter(batches))
        os.truncate(path, int(index.offsets.min()) + 1)
        message = rf"must stay as it is while it is read. Found: \d+ of \d+ bytes left of {path}"
        with pytest.raises(UserError, match=message):
            list(batches)
        assert index.describe(7) == name
        assert index.columns()["checksums"][7]


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
