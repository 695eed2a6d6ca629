"""Does conversion keep its promises at the size of ImageNet? An archive of as many tiny images.

The images are tiny, so that making and reading the archive takes minutes and not hours; what is
measured is what grows with their number: memory, and the time to open the result.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from fastdeit.benchmarks.harness.record import Record
from fastdeit.measured.rows import Row, with_bound
from fastdeit.pipelines.datasets.webdataset import tar_header

CLASSES = 1000
SAMPLE_S = 0.05

OPEN = """
import sys, time
from pathlib import Path
from fastdeit.pipelines.datasets.index import open_dataset
started = time.perf_counter()
index = open_dataset(Path(sys.argv[1]))
seconds = time.perf_counter() - started
# Not getrusage: its maximum is inherited from the process that started this one.
peak = [line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")][0]
print(seconds, int(peak.split()[1]) / 1024, len(index))
"""


def measure_scale(record: Record, folder: Path, num_images: int) -> None:
    """Convert an archive in the shape of ILSVRC2012_img_train.tar, and open the result.

    Rows: rate and peak memory of the conversion; time and memory to open.

    Args:
        record: takes each row.
        folder: where some 5 GB go for a while, for 1,281,167 images.
        num_images: how many images.
    """

    def row(name: str, unit: str, value: float, bound: float | None, what: str | None) -> None:
        made = Row(
            case="scale",
            name=f"{name}, {num_images:,} tiny images",
            unit=unit,
            n=1,
            median=value,
            p20=value,
            p80=value,
        )
        record.add([made if bound is None or what is None else with_bound(made, bound, what)])
        record.on_round()

    with TemporaryDirectory(prefix="fastdeit-scale-", dir=folder) as name:
        archive = Path(name) / "ILSVRC2012_img_train.tar"
        write_archive(archive, num_images)
        for out in (Path(name) / "x.beton", Path(name) / "x"):
            kind = out.suffix or "shards"
            program = [sys.executable, "-m", "fastdeit.tools.cli", "convert"]
            started = time.perf_counter()
            with subprocess.Popen([*program, str(archive), str(out)]) as process:
                peak = peak_memory_mb(process)
            seconds = time.perf_counter() - started
            if process.returncode:
                raise RuntimeError(f"the conversion ended with {process.returncode}")
            row(f"convert to {kind}", "img/s", num_images / seconds, None, None)
            row(f"peak memory of converting to {kind}, all processes", "MB", peak, 600, "the aim")
            command = [sys.executable, "-c", OPEN, str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            open_s, open_mb, found = map(float, done.stdout.split())
            if found != num_images:
                raise RuntimeError(f"{out} holds {found} images, not {num_images}")
            row(f"open {kind}", "s", open_s, 2, "the aim")
            row(f"memory of a process that opened {kind}", "MB", open_mb, 150, "the aim")


def peak_memory_mb(process: subprocess.Popen[bytes]) -> float:
    """The most memory that a program and its workers held at once, until it ends.

    Memory that several processes share counts once (PSS).
    """
    peak = 0
    while process.poll() is None:
        total = 0
        for pid in tree_of(process.pid):
            try:
                text = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
            except OSError:  # it has just ended
                continue
            lines = [line.split() for line in text.splitlines() if line.startswith("Pss:")]
            total += int(lines[0][1]) if lines else 0
        peak = max(peak, total)
        time.sleep(SAMPLE_S)
    return peak / 1024


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in (Path("/proc") / str(one) / "task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def write_archive(path: Path, num_images: int) -> None:
    """Write a tar of one tar a class, of JPEGs of about 700 bytes."""
    rng = np.random.default_rng(0)
    pool = []
    for number in range(256):
        shape = (8 + number % 8, 8 + number % 5, 3)
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        pool.append(buffer.getvalue())
    with path.open("wb") as file:
        for number in range(CLASSES):
            wnid = f"n{1_440_764 + 7 * number:08d}"
            inner = bytearray()
            for image in range(num_images // CLASSES + (number < num_images % CLASSES)):
                data = pool[(131 * number + image) % len(pool)]
                inner += tar_header(f"{wnid}_{image}.JPEG", len(data)) + data
                inner += bytes(-len(data) % 512)
            inner += bytes(1024)
            file.write(tar_header(f"{wnid}.tar", len(inner)) + inner + bytes(-len(inner) % 512))
        file.write(bytes(1024))
