"""`fastdeit verify`: is a dataset whole, sample by sample?"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import tyro

from fastdeit import UserError
from fastdeit.pipelines.decode import decode_with_pil
from fastdeit.pipelines.index import DatasetIndex, checksum, open_dataset
from fastdeit.tools.progress import progress
from fastdeit.tools.workers import num_workers, stop_at_once

CHUNK_IMAGES = 64


def verify(dataset: tyro.conf.Positional[Path], /, decode: bool = False, workers: int = 0) -> int:
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
            f"dataset must carry checksums to be verified without decoding. Found: {dataset}, a "
            f"{index.container} without. Pass --decode."
        )
    started = time.perf_counter()
    chunks = [
        range(first, min(first + CHUNK_IMAGES, len(index)))
        for first in range(0, len(index), CHUNK_IMAGES)
    ]
    num_bad = 0
    with ProcessPoolExecutor(
        num_workers(workers), get_context("forkserver"), initializer=_adopt, initargs=(index,)
    ) as pool:
        with stop_at_once(pool), progress(None, "verifying", len(index)) as bar:
            found = pool.map(partial(_check, decode), chunks)
            for chunk, problems in zip(chunks, found, strict=True):
                bar.update(len(chunk))
                num_bad += len(problems)
                for problem in problems:
                    print(f"bad: {problem}", file=sys.stderr)
    seconds = time.perf_counter() - started
    what = "checksums" if not decode else "decoding" if index.checksums is None else "both"
    print(
        f"{dataset}: {len(index)} samples, {num_bad} bad "
        f"(checked: {'checksums and decoding' if what == 'both' else what}) in {seconds:.1f} s",
        file=sys.stderr,
    )
    return 1 if num_bad else 0


_index: DatasetIndex


def _adopt(index: DatasetIndex) -> None:
    """Keep the index in a worker, so that it travels once."""
    global _index
    _index = index


def _check(decode: bool, samples: range) -> list[str]:
    """What is wrong with each of these samples."""
    problems = []
    for sample in samples:
        try:
            if _index.checksums is not None:
                found, stored = checksum(_index.read(sample)), int(_index.checksums[sample])
                if found != stored:
                    problems.append(
                        f"{_index.describe(sample)}: checksum {found:016x}, not {stored:016x}"
                    )
                    continue
            if decode:
                decode_with_pil(_index, sample).load()
        except UserError as error:
            problems.append(str(error))
    return problems
