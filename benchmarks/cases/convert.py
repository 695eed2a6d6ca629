"""`fastdeit bench convert`: conversion beside FFCV's own writer, on the same folder and cores.

Ours is measured as its user runs it, a whole program from start to exit; FFCV's writer without the
start of Python and the imports, which are several seconds that it would have to add.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import Numbers, Out, Peers, Rounds, Threads
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import Case, measure
from fastdeit.benchmarks.harness.run import measure_parts
from fastdeit.machine.threads import num_usable_cores
from fastdeit.measured.rows import Row, with_bound
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder

MAX_SIDE, QUALITY = 500, 90
IMAGES_A_SECOND = 20
"""Of the time that there is: so few that each way comes several times."""
COPY = "bare copy of the files"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions(Numbers):
    """What `convert` may be asked for."""

    source: Path
    """an ImageFolder."""
    threads: Threads = 0
    rounds: Rounds = 5
    peers: Peers = True
    out: Out = None

    @property
    def part(self) -> Part:
        """In a process of its own."""
        work = f"{__name__}:measure_convert"
        return Part(name="convert", work=work, options={"asked": self})


def convert(asked: Annotated[ConvertOptions, tyro.conf.arg(name="")]) -> int:
    """Measure conversion beside FFCV's own writer and a bare copy of the files."""
    list_imagefolder(asked.source)  # so that what is wrong with it is said at once
    return measure_parts([asked.part], asked.out)


def measure_convert(record: Record, asked: ConvertOptions) -> None:
    """Measure pass-through and re-encoding, with a limit of time of fewer of the images.

    The bound of pass-through is a copy of the same files with cp.
    """
    if record.left_s is None:
        _measure_folder(record, asked.source, asked)
        return
    with fewer_images(asked.source, int(IMAGES_A_SECOND * record.left_s)) as few:
        _measure_folder(record, few, asked)


def _measure_folder(record: Record, source: Path, asked: ConvertOptions) -> None:
    """The same of a folder as it is."""
    from fastdeit.pipelines.open import is_installed

    threads = asked.threads or num_usable_cores()
    names = list_imagefolder(source).names
    note = f"{len(names)} images, a whole program with its start"
    with TemporaryDirectory(prefix="fastdeit-bench-", dir=source.parent) as folder:
        work = Path(folder)

        def ours(name: str, what: str, *options: str) -> Case:
            def run() -> int:
                run_convert(source, work / name, threads, options)
                _remove(work / name)
                return len(names)

            kind = ".beton" if name.endswith(".beton") else "shards"
            return Case(name=f"fastdeit convert, {kind}, {what}", run=run, note=note)

        def peer(max_resolution: int | None) -> list[Case]:
            if not asked.peers or not is_installed("ffcv"):
                return []
            size = f"at {max_resolution} px" if max_resolution else "in full size"
            return [
                Case(
                    name=f"FFCV's DatasetWriter, re-encoded {size} q{QUALITY}",
                    run=lambda: _write_with_ffcv(source, work, threads, max_resolution),
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
            effort = record.effort(asked.rounds, frac)
            return measure("convert", "img/s", [*peers, *others], effort, baselines)

        quick = ("--check", "structure")
        own = [
            ours("x.beton", "pass-through, each decoded"),
            ours("x.beton", "pass-through", *quick),
            ours("x", "pass-through", *quick),
            Case(name=COPY, run=copy),
        ]
        *rows, copied = timed(peer(None), own, 0.5)
        record.add([*(with_bound(row, copied.median, COPY) for row in rows), copied])
        what = f"re-encoded at {MAX_SIDE} px q{QUALITY}"
        again = ("--max-side", str(MAX_SIDE), "--quality", str(QUALITY), "--reencode", "all")
        record.add(timed(peer(MAX_SIDE), [ours("x.beton", what, *again)], 1))


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


def run_convert(source: Path, out: Path, threads: int, options: tuple[str, ...]) -> None:
    """Run `fastdeit convert` as a program; a UserError says what it said if it failed."""
    program = [sys.executable, "-m", "fastdeit.tools.cli", "convert", str(source), str(out)]
    done = subprocess.run(
        [*program, "--workers", str(threads), *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(program)} failed. Found: {done.stderr.strip()}. Try it alone.")


def _remove(out: Path) -> None:
    """Remove what a conversion wrote."""
    out.with_name(f"{out.name}.json").unlink()
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()


def _write_with_ffcv(source: Path, work: Path, threads: int, max_resolution: int | None) -> int:
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
