"""`fastdeit bench scale`: does conversion keep its promises at the size of ImageNet?

An archive of as many images is made. They are tiny, so that making and reading the archive takes
minutes and not hours; what is measured is what grows with their number: memory, and the time to
open the result.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.memory import SHARED_ONCE, peak_memory
from fastdeit.benchmarks.harness.options import Out, require_at_least
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import row_of_values
from fastdeit.benchmarks.harness.run import measure_parts
from fastdeit.measured.rows import with_bound
from fastdeit.pipelines.datasets.webdataset import tar_header

CLASSES = 1000
WATCH_S = 0.05

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


def scale(
    num_images: Annotated[int, tyro.conf.arg(help="how many.")] = 1_281_167, out: Out = None
) -> int:
    """Convert as many tiny images as ImageNet has, in the temporary folder: time and memory."""
    require_at_least(1, num_images=num_images)
    options = {"folder": Path(gettempdir()), "num_images": num_images}
    return measure_parts(
        [Part(name="scale", work=f"{__name__}:measure_scale", options=options)], out
    )


def measure_scale(record: Record, folder: Path, num_images: int) -> None:
    """Convert an archive in the shape of ILSVRC2012_img_train.tar, and open the result.

    Rows: rate and peak memory of the conversion; time and memory to open.
    """

    def add(name: str, unit: str, value: float, aim: float | None = None) -> None:
        row = row_of_values("scale", f"{name}, {num_images:,} tiny images", unit, [value])
        record.add([row if aim is None else with_bound(row, aim, "the aim")])
        record.on_round()

    with TemporaryDirectory(prefix="fastdeit-scale-", dir=folder) as name:
        archive = Path(name) / "ILSVRC2012_img_train.tar"
        _write_archive(archive, num_images)
        for out in (Path(name) / "x.beton", Path(name) / "x"):
            kind = out.suffix or "shards"
            program = [sys.executable, "-m", "fastdeit.tools.cli", "convert"]
            started = time.perf_counter()
            with (
                subprocess.Popen([*program, str(archive), str(out)]) as process,
                peak_memory(process.pid, SHARED_ONCE, WATCH_S) as peak,
            ):
                process.wait()
            seconds = time.perf_counter() - started
            if process.returncode:
                raise RuntimeError(f"the conversion ended with {process.returncode}")
            add(f"convert to {kind}", "img/s", num_images / seconds)
            what = f"peak memory of converting to {kind}, all processes"
            add(what, "MB", peak.num_bytes / 2**20, 600)
            command = [sys.executable, "-c", OPEN, str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            open_s, open_mb, found = map(float, done.stdout.split())
            if found != num_images:
                raise RuntimeError(f"{out} holds {found} images, not {num_images}")
            add(f"open {kind}", "s", open_s, 2)
            add(f"memory of a process that opened {kind}", "MB", open_mb, 150)


def _write_archive(path: Path, num_images: int) -> None:
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
