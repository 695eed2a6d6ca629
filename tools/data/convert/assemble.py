"""From prepared images to a container, with a journal, so that a stop anywhere loses little."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from fastdeit import UserError, __version__
from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.container import ContainerWriter
from fastdeit.pipelines.datasets.index import sample_key
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.webdataset import WebDatasetWriter
from fastdeit.text.progress import progress, say
from fastdeit.tools.data.convert.journal import Journal
from fastdeit.tools.data.convert.part_writer import PartWriter
from fastdeit.tools.data.convert.prepare_image import PreparedImage
from fastdeit.tools.data.convert.work_folder import JOURNAL

COMMIT_S = 2.0
"""How often progress is put on the disk; what came after is done again by the next run."""
Kind = Literal["beton", "webdataset", "part"]
BadPolicy = Literal["error", "skip", "list"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Assembly:
    """N images in the order in which they are written, and what is said of them."""

    kind: Kind
    """What is written."""
    names: Names
    keys: NDArray[np.uint64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """(N,) bytes in the source."""
    class_ids: list[str]
    class_names: list[str]
    identity: dict[str, Any]
    """Of the conversion: an unfinished one goes on only if it is the same."""
    facts: dict[str, Any]
    """What the manifest says of the source."""
    largest_bytes: int
    """Size of the largest image in the source."""
    source: Path
    """For messages."""


def in_key_order(assembly: Assembly) -> tuple[Assembly, NDArray[np.int64]]:
    """Sort by key, which is a shuffle that never changes.

    Returns:
        The sorted assembly and where each of its images was.

    Raises:
        UserError: two images have one name.
    """
    order = np.argsort(assembly.keys, kind="stable")
    keys = assembly.keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        one, other = (assembly.names[int(order[twice[0] + step])] for step in (0, 1))
        raise UserError(
            f"every image must have a name of its own. Found: {one} and {other} in "
            f"{assembly.source}. Rename one."
        )
    return replace(
        assembly,
        names=assembly.names.take(order),
        keys=keys,
        labels=assembly.labels[order],
        sizes=assembly.sizes[order],
    ), order


def keys_of(names: Names) -> NDArray[np.uint64]:
    """The stable keys of some names."""
    return np.fromiter((sample_key(name) for name in names), np.uint64, len(names))


def make_writer(assembly: Assembly, work: Path) -> ContainerWriter:
    """The writer of the kind of container that is asked for."""
    num = len(assembly.keys)
    if assembly.kind == "beton":
        return BetonWriter(work, num, assembly.largest_bytes)
    if assembly.kind == "webdataset":
        return WebDatasetWriter(work, num, assembly.identity["shard_mib"] << 20)
    return PartWriter(work, num)


def assemble(
    assembly: Assembly,
    work: Path,
    images_from: Callable[[int], Generator[PreparedImage, None, None]],
    bad: BadPolicy,
    is_restart: bool,
    on_start: Callable[[], None] = lambda: None,
) -> tuple[Path, dict[str, Any]]:
    """Write all images into one container, or go on where an earlier run was stopped.

    Args:
        assembly: what is written.
        work: the folder for what is unfinished.
        images_from: the prepared images, in order, from a place on.
        bad: "error" or "skip".
        is_restart: whether to throw away what another conversion left unfinished.
        on_start: called before the first image of a new conversion.

    Returns:
        (the finished file or folder, the manifest).

    Raises:
        UserError: an image is bad and must not be left out, or all of them are; or another
            conversion was left unfinished.
        OSError: the disk is full, say. What was done is kept.
    """
    journal = Journal(work / JOURNAL, len(assembly.keys))
    try:
        writer = _go_on(assembly, work, journal, is_restart)
        try:
            if journal.count == 0:
                on_start()
            elif journal.count < len(assembly.keys):
                say(f"going on after {journal.count} of {len(assembly.keys)} images, in {work}")
            _fill(assembly, writer, journal, images_from, bad)
            report, columns = _conclude(assembly, journal)
            return writer.finish(report, columns), report
        finally:
            with suppress(OSError):  # of a full disk, which has been raised already
                writer.close()
    finally:
        journal.close()
        if journal.count == 0:  # nothing to go on with
            (work / JOURNAL).unlink()


def _go_on(assembly: Assembly, work: Path, journal: Journal, is_restart: bool) -> ContainerWriter:
    """A writer that stands where the journal says."""
    is_same = journal.identity is not None and is_continuation(assembly, journal)
    if journal.identity is not None and not is_same and not is_restart:
        raise UserError(
            f"an unfinished conversion can only go on with the same source and options. Found: "
            f"{describe_difference(journal.identity, assembly.identity)}, in {work}. Give those, "
            "or pass --overwrite to begin again."
        )
    writer = make_writer(assembly, work)
    if is_same:
        kept = ~journal.records["is_bad"][: journal.count].astype(bool)
        sizes = journal.records["size"][: journal.count][kept].tolist()
        if writer.resume(sizes, assembly.labels[: journal.count][kept].tolist()):
            return writer
        writer.close()
        say(f"what was unfinished in {work} was cut since; beginning again")
    journal.begin(assembly.identity)
    return make_writer(assembly, work)


def is_continuation(assembly: Assembly, journal: Journal) -> bool:
    """Whether an unfinished conversion is the beginning of this one.

    An image that is still to come may have changed: a bad one was mended.
    """

    def without_sizes(identity: Any) -> Any:
        if not isinstance(identity, dict) or not isinstance(identity.get("source"), dict):
            return identity
        kept = {name: value for name, value in identity["source"].items() if name != "fingerprint"}
        return {**identity, "source": kept}

    if without_sizes(journal.identity) != without_sizes(assembly.identity):
        return False
    done = journal.records["source_bytes"][: journal.count]
    return bool(np.array_equal(done, assembly.sizes[: journal.count]))


def describe_difference(old: Any, new: dict[str, Any]) -> str:
    """What an unfinished conversion had that this one has not."""
    if not isinstance(old, dict):
        return "one of another version"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "one " + " and ".join(
        "of another source, or of this one before it changed"
        if name == "source"
        else f"with {name} {old.get(name)}, not {new.get(name)}"
        for name in names
    )


def _fill(
    assembly: Assembly,
    writer: ContainerWriter,
    journal: Journal,
    images_from: Callable[[int], Generator[PreparedImage, None, None]],
    bad: BadPolicy,
) -> None:
    """Add the images that are still missing; whatever happens, what was added is kept."""
    if bad == "error":
        for place, what, reason in journal.remarks:
            if what == "error":
                raise bad_image(assembly, place, reason)
    total, first = len(assembly.keys), journal.count
    committed_s = time.monotonic()

    def commit() -> None:
        writer.sync()
        journal.commit()
        writer.forget_older()

    with closing(images_from(first)) as images:
        try:
            for image in progress(images, "converting", total, first=first):
                place = journal.count
                if image.error and bad == "error":
                    raise bad_image(assembly, place, image.error)
                if not image.error:
                    writer.add(
                        int(assembly.keys[place]),
                        image.data,
                        int(assembly.labels[place]),
                        image.mode,
                    )
                journal.add(image, int(assembly.sizes[place]))
                if time.monotonic() - committed_s > COMMIT_S:
                    commit()
                    committed_s = time.monotonic()
        except BaseException:
            with suppress(OSError):  # of the disk that is full already
                commit()
            raise
    commit()


def bad_image(assembly: Assembly, place: int, reason: str) -> UserError:
    """The error about an image that cannot be used."""
    return UserError(
        f"every image must decode. Found: {assembly.names[place]} in {assembly.source} ({reason}). "
        "Mend it, or pass --bad skip to leave such images out and list them, or --bad list to see "
        "all of them first."
    )


def _conclude(assembly: Assembly, journal: Journal) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the columns of what was written."""
    records = journal.records
    kept = ~records["is_bad"].astype(bool)
    if not kept.any() and assembly.kind != "part":
        raise UserError(
            f"an image must decode. Found: none of {len(kept)} in {assembly.source}. "
            "Give another source."
        )
    names, keys, labels = assembly.names, assembly.keys, assembly.labels
    if not kept.all():
        places = np.flatnonzero(kept)
        names, keys, labels, records = (
            names.take(places),
            keys[places],
            labels[places],
            records[kept],
        )
    per_class = Counter(labels.tolist())
    remarks: dict[str, list[dict[str, str]]] = {"note": [], "error": []}
    for place, what, reason in journal.remarks:
        remarks[what].append({"name": assembly.names[place], "reason": reason})
    report = {
        "fastdeit": __version__,
        "pillow": PIL.__version__,
        "parameters": {name: value for name, value in assembly.identity.items() if name != "part"},
        "source": assembly.facts,
        "num_images": len(keys),
        "num_bytes": int(records["size"].sum(dtype=np.int64)),
        "class_ids": assembly.class_ids,
        "class_names": assembly.class_names,
        "images_per_class": [per_class[number] for number in range(len(assembly.class_ids))],
        "irregular": remarks["note"],
        "left_out": remarks["error"],
    }
    columns = {
        "keys": keys,
        "names": names,
        "labels": labels,
        "checksums": records["checksum"].copy(),
        "widths": records["width"].astype(np.int32),
        "heights": records["height"].astype(np.int32),
        "modes": records["mode"].copy(),
    }
    return report, columns


def list_bad(images: Iterable[PreparedImage], names: Names, total: int) -> int:
    """Name every image that cannot be used, and write nothing.

    Returns:
        How many there are.
    """
    num_bad = 0
    for place, image in enumerate(progress(images, "checking", total)):
        if image.error:
            num_bad += 1
            say(f"bad: {names[place]}: {image.error}")
    return num_bad
