"""`fastdeit verify`: is a dataset whole, sample by sample?"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit import UserError
from fastdeit.pipelines.decode import decode_with_pil
from fastdeit.pipelines.index import DatasetIndex, checksum, open_dataset
from fastdeit.tools.progress import progress
from fastdeit.tools.workers import num_workers, ordered_map


def verify(
    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")],
    /,
    decode: bool = False,
    workers: int = 0,
) -> int:
    """Check a dataset: its structure, every sample's checksum, and that images decode.

    Args:
        dataset: a .beton, a folder of shards or an ImageFolder.
        decode: decode every image too.
        workers: processes; 0 takes every usable core.

    Returns:
        0 if all is well, 1 if a sample is bad; each bad one is named on stderr.
    """
    index = open_dataset(dataset)
    if index.checksums is None and not decode:
        raise UserError(
            f"dataset must carry checksums to be verified without decoding. Found: none in the "
            f"{index.container} {dataset}. Pass --decode."
        )
    started = time.perf_counter()
    num_bad = 0
    checks = ordered_map(_check, (index, decode), range(len(index)), num_workers(workers))
    with closing(checks) as problems:
        for problem in progress(problems, "verifying", len(index)):
            if problem:
                num_bad += 1
                print(f"bad: {problem}", file=sys.stderr)
    seconds = time.perf_counter() - started
    what = "checksums" if not decode else "decoding" if index.checksums is None else "both"
    print(
        f"{dataset}: {len(index)} samples, {num_bad} bad "
        f"(checked: {'checksums and decoding' if what == 'both' else what}) in {seconds:.1f} s",
        file=sys.stderr,
    )
    return 1 if num_bad else 0


def _check(shared: tuple[DatasetIndex, bool], sample: int) -> str:
    """What is wrong with a sample; empty if nothing is."""
    index, decode = shared
    try:
        if index.checksums is not None:
            found, stored = checksum(index.read(sample)), int(index.checksums[sample])
            if found != stored:
                return f"{index.describe(sample)}: checksum {found:016x}, not {stored:016x}"
        if decode:
            decode_with_pil(index, sample)
    except UserError as error:
        return str(error)
    return ""
