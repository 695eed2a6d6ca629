"""`fastdeit verify`: is a dataset whole, sample by sample?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit import UserError
from fastdeit.pipelines.datasets.beton import open_beton
from fastdeit.pipelines.datasets.check import is_ours, lost_samples, sample_fault, structure_faults
from fastdeit.pipelines.datasets.index import DamagedError, DatasetIndex, open_dataset
from fastdeit.pipelines.datasets.webdataset import open_webdataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.text.json_text import parse_json
from fastdeit.text.progress import progress, say
from fastdeit.tools.data.workers import in_chunks, num_workers, ordered_map

MAX_NAMED = 1000
"""So many faults are named one by one; the rest are counted."""


def verify(
    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")],
    /,
    decode: bool = False,
    workers: int = 0,
) -> int:
    """Check a dataset: its structure, every sample's checksum, and that images decode.

    A dataset that `fastdeit convert` made is compared in every byte. Of others only the decoding
    can be checked.

    Args:
        dataset: a .beton, a folder of shards or an ImageFolder.
        decode: decode every image too.
        workers: processes; 0 takes every usable core.

    Returns:
        0 if all is well, 1 if something is wrong; each bad sample is named on stderr.
    """
    processes = num_workers(workers)
    started = time.perf_counter()
    report = _Report()
    index = _open(dataset, report)
    if index is None:
        say(f"{dataset}: not a whole dataset; {report.num_faults} faults")
        return 1
    has_checksums = is_ours(index)
    if not has_checksums and not decode:
        raise UserError(
            f"dataset must carry checksums to be verified without decoding. Found: none in the "
            f"{index.container} {dataset}. Pass --decode."
        )
    if has_checksums:
        report.add_all(structure_faults(index))
        report.add_all(_manifest_faults(index))
    checks = ordered_map(_check, (index, decode), in_chunks(range(len(index))), processes)
    num_bad = 0
    with closing(checks) as problems:
        for problem in progress(problems, "verifying", len(index)):
            if problem:
                num_bad += 1
                report.add(problem)
    done = ["structure", "checksums"] * has_checksums + ["decoding"] * decode
    say(
        f"{dataset}: {len(index)} samples, {num_bad} bad, {report.num_faults - num_bad} other "
        f"faults (checked: {', '.join(done)}) in {time.perf_counter() - started:.1f} s"
    )
    return 1 if report.num_faults else 0


class _Report:
    """Faults, named up to a limit and counted beyond it."""

    def __init__(self) -> None:
        self.num_faults = 0

    def add(self, fault: str) -> None:
        self.num_faults += 1
        if self.num_faults <= MAX_NAMED:
            say(f"bad: {fault}")
        elif self.num_faults == MAX_NAMED + 1:
            say("bad: and more, which are only counted")

    def add_all(self, faults: Iterable[str]) -> None:
        for fault in faults:
            self.add(fault)


def _open(dataset: Path, report: _Report) -> DatasetIndex | None:
    """Open a dataset, or report why not and what is lost; None if nothing more can be said."""
    try:
        return open_dataset(dataset)
    except DamagedError as error:
        damage = str(error)
    if dataset.is_file():
        try:
            # Where its tables and its index differ will be found, sample by sample.
            return open_beton(dataset, is_checked=False)
        except UserError:
            report.add(damage)
            report.add_all(lost_samples(dataset))
            return None
    report.add(damage)
    try:
        return open_webdataset(dataset, is_checked=False)
    except (UserError, OSError):
        return None


def _manifest_faults(index: DatasetIndex) -> Iterator[str]:
    """Whether OUT.json, if it is there, says what OUT says itself."""
    manifest = index.path.with_name(f"{index.path.name}.json")
    if manifest.is_file():
        try:
            is_same = parse_json(manifest.read_text(encoding="utf-8")) == index.made_by
        except ValueError:
            is_same = False
        if not is_same:
            yield f"{manifest}: it does not say what {index.path} says itself"


def _check(shared: tuple[DatasetIndex, bool], sample: int) -> str:
    """What is wrong with a sample; empty if nothing is."""
    index, decode = shared
    fault = sample_fault(index, sample) if is_ours(index) else ""
    if decode and not fault:
        try:
            decode_with_pil(index, sample)
        except UserError as error:
            return str(error)
    return fault
