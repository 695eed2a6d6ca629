"""Conversion beside FFCV's own writer, on the same folder and the same cores.

Ours is measured as its user runs it, a whole program from start to exit; FFCV's writer without the
start of Python and the imports, which are several seconds that it would have to add.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import Case, measure
from fastdeit.measured.rows import Row, with_bound
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.open import is_installed

MAX_SIDE, QUALITY = 500, 90
IMAGES_A_SECOND = 20
"""Of the time that there is: so few that each way comes several times."""
COPY = "bare copy of the files"


def measure_convert(
    record: Record, source: Path, threads: int, rounds: int, has_peers: bool = True
) -> None:
    """Measure pass-through and re-encoding.

    A row for each way. The bound of pass-through is a copy of the same files with cp. With a limit
    of time fewer of the images are taken.

    Args:
        record: takes the rows of pass-through, and then of re-encoding.
        source: an ImageFolder.
        threads: worker processes of each.
        rounds: of pass-through, and again of re-encoding.
        has_peers: whether FFCV's writer is measured.
    """
    if record.left_s is None:
        measure_folder(record, source, threads, rounds, has_peers)
        return
    with fewer_images(source, int(IMAGES_A_SECOND * record.left_s)) as few:
        measure_folder(record, few, threads, rounds, has_peers)


def measure_folder(
    record: Record, source: Path, threads: int, rounds: int, has_peers: bool
) -> None:
    """The same of a folder as it is."""
    _, names, _, _ = list_imagefolder(source)
    note = f"{len(names)} images, a whole program with its start"
    with TemporaryDirectory(prefix="fastdeit-bench-", dir=source.parent) as folder:
        work = Path(folder)

        def ours(name: str, *options: str) -> Case:
            def run() -> int:
                convert(source, work / name, threads, options)
                remove(work / name)
                return len(names)

            kind = ".beton" if name.endswith(".beton") else "shards"
            what = f"re-encoded at {MAX_SIDE} px q{QUALITY}" if options else "pass-through"
            return Case(name=f"fastdeit convert, {kind}, {what}", run=run, note=note)

        def peer(max_resolution: int | None) -> list[Case]:
            if not has_peers or not is_installed("ffcv"):
                return []
            size = f"at {max_resolution} px" if max_resolution else "in full size"
            return [
                Case(
                    name=f"FFCV's DatasetWriter, re-encoded {size} q{QUALITY}",
                    run=lambda: write_with_ffcv(source, work, threads, max_resolution),
                    note="without the start of Python and imports; it cannot pass bytes through",
                    may_fail=True,
                )
            ]

        def copy() -> int:
            subprocess.run(["cp", "-r", str(source), str(work / "copy")], check=True)
            shutil.rmtree(work / "copy")
            return len(names)

        def timed(peers: list[Case], others: list[Case], frac: float) -> list[Row]:
            baselines = [case.name for case in peers]
            effort = record.effort(rounds, frac)
            return measure("convert", "img/s", [*peers, *others], effort, baselines)

        own = [ours("x.beton"), ours("x"), Case(name=COPY, run=copy)]
        *rows, copied = timed(peer(None), own, 0.5)
        record.add([*(with_bound(row, copied.median, COPY) for row in rows), copied])
        again = ("--max-side", str(MAX_SIDE), "--quality", str(QUALITY), "--reencode", "all")
        record.add(timed(peer(MAX_SIDE), [ours("x.beton", *again)], 1))


@contextmanager
def fewer_images(source: Path, num_images: int) -> Iterator[Path]:
    """An ImageFolder of some of another's images, spread over its classes; removed at the end."""
    classes = sorted(folder for folder in source.iterdir() if folder.is_dir())
    each = max(1, num_images // max(1, len(classes)))
    with TemporaryDirectory(prefix="fastdeit-bench-", dir=source.parent) as place:
        for folder in classes:
            (Path(place) / folder.name).mkdir()
            for file in sorted(folder.iterdir())[:each]:
                (Path(place) / folder.name / file.name).hardlink_to(file)
        yield Path(place)


def convert(source: Path, out: Path, threads: int, options: tuple[str, ...]) -> None:
    """Run `fastdeit convert` as a program.

    Raises:
        UserError: it failed; with what it said.
    """
    program = [sys.executable, "-m", "fastdeit.tools.cli", "convert", str(source), str(out)]
    done = subprocess.run(
        [*program, "--workers", str(threads), *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(program)} failed. Found: {done.stderr.strip()}. Try it alone.")


def remove(out: Path) -> None:
    """Remove what a conversion wrote."""
    out.with_name(f"{out.name}.json").unlink()
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()


def write_with_ffcv(source: Path, work: Path, threads: int, max_resolution: int | None) -> int:
    """Convert with FFCV's own writer, as its ImageNet example does it."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    out = work / "ffcv.beton"
    dataset: Any = ImageFolder(str(source))
    image = RGBImageField(write_mode="jpg", max_resolution=max_resolution, jpeg_quality=QUALITY)
    fields = {"image": image, "label": IntField()}
    writer = DatasetWriter(str(out), fields, num_workers=threads)
    with redirect_stderr(StringIO()):  # its progress bar
        writer.from_indexed_dataset(dataset, chunksize=100)
    out.unlink()
    return len(dataset)
