"""`fastdeit bench footprint` and `scale` find memory, time and files that are known otherwise."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench_here import Heard
from PIL import Image

from fastdeit.benchmarks.cases import footprint as footprint_module
from fastdeit.benchmarks.cases import scale as scale_module
from fastdeit.benchmarks.harness.memory import PRIVATE, SHARED_ONCE, peak_memory
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import Engine, is_installed
from fastdeit.tools.cli import main

MB = 10**6
THREADED: Engine = "ffcv" if is_installed("ffcv") else "pil"
SHARING = f"""
import os, time
shared = b"x" * (100 * {MB})
child = os.fork()
own = b"" if child else b"y" * (50 * {MB})
time.sleep(0.6)
if child:
    os.waitpid(child, 0)
"""
"""100 MB in two processes, and 50 MB more in one."""


@pytest.mark.parametrize(("kind", "expected"), [(SHARED_ONCE, 150), (PRIVATE, 250)])
def test_the_memory_of_a_family(kind: tuple[str, tuple[str, ...]], expected: int) -> None:
    """What a process shares with its child counts once or twice, as the kind says."""
    with (
        subprocess.Popen([sys.executable, "-c", SHARING]) as process,
        peak_memory(process.pid, kind, 0.01) as peak,
    ):
        process.wait()
    assert expected <= peak.num_bytes / MB < expected + 40  # two Pythons


# ---- footprint -----------------------------------------------------------------------------------
@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four batches of 64 tiny images."""
    monkeypatch.setattr(footprint_module, "OVERHEAD_BATCH", 64)
    monkeypatch.setattr(footprint_module, "TINY_IMAGES", 256)


@pytest.mark.slow
def test_planted_memory_is_found(drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an epoch allocates more is in the peak of its process."""

    def peak_mb() -> float:
        heard = Heard()
        footprint_module.measure_memory(heard.record, THREADED, drawn.path, 64, 1)
        (row,) = heard.rows
        assert (row.case, row.unit) == ("memory of a rank", "MB")
        assert row.name == f"fastdeit {THREADED}, batch 96"  # there are no more images
        return row.median

    epoch_of = footprint_module.epoch_of

    def heavy(batches: Any) -> Callable[[], int]:
        def run() -> int:
            ballast = b"x" * (300 * MB)
            return epoch_of(batches)() + 0 * len(ballast)

        return run

    peak_mb()  # what is imported and compiled stays
    usual = peak_mb()
    status = Path("/proc/self/status").read_text().splitlines()
    (private,) = (int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    assert usual >= 0.8 * private * 1024 / MB
    monkeypatch.setattr(footprint_module, "epoch_of", heavy)
    assert peak_mb() - usual == pytest.approx(300, abs=60)


@pytest.mark.usefixtures("tiny")
def test_planted_overhead_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds are those of a batch: one that sleeps for 20 is seen in each of four."""
    passes: list[int] = []
    open_epochs = footprint_module.open_epochs

    @contextmanager
    def slow(*args: Any) -> Iterator[Any]:
        class Slow:
            def __iter__(self) -> Iterator[Any]:
                passes.append(0)
                for batch in batches:
                    passes[-1] += 1
                    time.sleep(0.02)
                    yield batch

        with open_epochs(*args) as batches:
            yield Slow()

    monkeypatch.setattr(footprint_module, "open_epochs", slow)
    heard = Heard()
    footprint_module.measure_overhead(heard.record, THREADED)
    (row,) = heard.rows
    assert (row.case, row.unit, row.n) == ("overhead", "ms", 5)
    assert 20 < row.p20 <= row.median <= row.p80
    assert row.median < 80
    assert passes == 6 * [4]  # one of them is not timed


@pytest.mark.slow
@pytest.mark.usefixtures("tiny", "parts_here")
def test_footprint(
    drawn: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of memory for each engine, and of overhead for those that work in threads."""
    engines = [THREADED, "pil"] if THREADED != "pil" else ["pil"]
    monkeypatch.setattr(footprint_module, "engines_for", lambda _: engines)
    line = ["bench", "footprint", "--data", str(drawn.path), "--image-size", "32"]
    assert main([*line, "--threads", "1"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [(row["case"], row["name"].split(",")[0]) for row in rows] == [
        *(("memory of a rank", f"fastdeit {engine}") for engine in engines),
        *(("overhead", f"fastdeit {engine}") for engine in engines if engine != "pil"),
    ]


# ---- scale ---------------------------------------------------------------------------------------
def test_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive has the images that it says, and each figure is that of its program."""
    num_images = 1200
    called: dict[str, float] = {}
    written: list[float] = []
    run, write = subprocess.run, scale_module._write_archive

    def look(command: list[str], **options: Any) -> Any:
        """Before a container is opened."""
        out = Path(command[-1])
        called[out.name] = time.time()
        assert len(open_dataset(out)) == num_images
        done = run(command, **options)
        written.append(time.time())
        return done

    def write_and_read(path: Path, number: int) -> None:
        write(path, number)
        with tarfile.open(path) as outer:
            inner = [io.BytesIO(outer.extractfile(member).read()) for member in outer]  # type: ignore[union-attr]
        names = [name for each in inner for name in tarfile.open(fileobj=each).getnames()]
        assert (len(inner), len(names), len(set(names))) == (1000, number, number)
        inner[0].seek(0)
        with tarfile.open(fileobj=inner[0]) as first:
            file = first.extractfile(names[0])
            assert file is not None and Image.open(file).size <= (12, 15)
        written.append(time.time())

    # Half a second and 64 MB more to open.
    planted = scale_module.OPEN.replace(
        "index =", "time.sleep(0.5); x = b'x' * (64 << 20); index ="
    )
    monkeypatch.setattr(scale_module, "OPEN", planted)
    monkeypatch.setattr(scale_module, "_write_archive", write_and_read)
    monkeypatch.setattr(subprocess, "run", look)
    heard = Heard()
    scale_module.measure_scale(heard.record, tmp_path, num_images)
    rows = {row.name.removesuffix(f", {num_images:,} tiny images"): row for row in heard.rows}
    assert len(rows) == 8
    for at, (kind, out) in enumerate(((".beton", "x.beton"), ("shards", "x"))):
        took_s = called[out] - written[at]
        assert num_images / rows[f"convert to {kind}"].median == pytest.approx(took_s, abs=0.5)
        peak = rows[f"peak memory of converting to {kind}, all processes"]
        assert 20 < peak.median < 600 and peak.bound == 600
        assert 0.5 < rows[f"open {kind}"].median < 5
        memory = rows[f"memory of a process that opened {kind}"]
        assert 64 + 10 < memory.median < 64 + 80
        assert memory.frac_of_bound == pytest.approx(memory.median / 150)
    assert list(tmp_path.iterdir()) == []
