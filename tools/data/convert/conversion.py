"""One OUT on its way: looked at, filled with a journal, so that a stop loses little, and named."""

from __future__ import annotations

import errno
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL

from fastdeit import UserError, __version__
from fastdeit.files import sync_folder
from fastdeit.pipelines.datasets.beton import BetonWriter
from fastdeit.pipelines.datasets.container import ContainerWriter
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.webdataset import SIDECAR, WebDatasetWriter, is_shard_file
from fastdeit.text.progress import progress, say
from fastdeit.tools.data.convert.assembly import Assembly, describe_difference, describe_not_images
from fastdeit.tools.data.convert.journal import Journal
from fastdeit.tools.data.convert.manifest import (
    made_with,
    manifest_of,
    restore_manifest,
    write_manifest,
)
from fastdeit.tools.data.convert.part_writer import PartWriter, read_part
from fastdeit.tools.data.convert.prepare_image import NOT_TURNED, PreparedImage
from fastdeit.tools.data.convert.work_folder import (
    JOURNAL,
    SPOOL,
    check_space,
    format_bytes,
    locked_work,
)

COMMIT_S = 2.0
"""How often progress is put on the disk; what came after is done again by the next run."""
BadPolicy = Literal["error", "skip", "list"]
Images = Callable[[int], Generator[PreparedImage, None, None]]
"""The prepared images, in order, from a place on."""


class Conversion:
    """Writes images into OUT, or goes on where an earlier run was stopped.

    Within its block nobody else writes to OUT. Ask `is_done`, then `write`.
    """

    def __init__(
        self,
        out: Path,
        assembly: Assembly,
        bad: BadPolicy,
        overwrite: bool,
        made_from: str = "source in the same way",
    ) -> None:
        self.out, self.assembly, self._made_from = out, assembly, made_from
        self._bad, self._overwrite = bad, overwrite
        self._started_s = time.perf_counter()
        self._lock: AbstractContextManager[Path] = locked_work(out)

    def __enter__(self) -> Conversion:
        """Lock OUT; UserError if another conversion writes to it, or OUT cannot have its name."""
        self.work = self._lock.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)

    # ---- what is there ---------------------------------------------------------------------------
    def is_done(self) -> bool:
        """Whether OUT is what this conversion would write; said, and nothing else is left of it.

        Raises UserError if OUT is the source, within it or around it, or must not be replaced.
        """
        is_there = self._is_part_there if self.assembly.kind == "part" else self._is_there
        if not is_there():
            return False
        say(f"{self.out} is already there, from the same {self._made_from}.")
        # Of a conversion that was killed after its OUT was complete.
        if (self.work / JOURNAL).is_file():
            journal = Journal(self.work / JOURNAL, len(self.assembly.keys))
            journal.close()
            if journal.identity == self.assembly.identity:
                (self.work / JOURNAL).unlink()
        return True

    def _is_part_there(self) -> bool:
        if not self.out.exists():
            return False
        # A part says of what it is one, not which one it is: that is its name.
        wanted = {name: v for name, v in self.assembly.identity.items() if name != "part"}
        is_same: bool = read_part(self.out)[0]["parameters"] == wanted
        if not is_same and not self._overwrite:
            raise UserError(
                f"a part must not be replaced by one of another kind. Found: {self.out}, made from "
                "another source or in another way. Pass --overwrite to replace it."
            )
        return is_same

    def _is_there(self) -> bool:
        out, manifest = self.out, manifest_of(self.out)
        check_apart(out, self.assembly.source)
        if out.exists() and not manifest.exists():
            restore_manifest(out, manifest)
        made = made_with(manifest)
        if made is None and (manifest.exists() or out.exists()):
            found = out if out.exists() else manifest
            raise UserError(
                f"OUT must be new, or made by `fastdeit convert`. Found: {found}, which it did not "
                "make. Give another name."
            )
        if out.is_dir() and (foreign := [f for f in out.iterdir() if not is_shard_file(f)]):
            raise UserError(
                f"OUT must hold nothing but shards to be replaced. Found: {foreign[0]}. "
                "Move it away, or give another name."
            )
        if out.exists() and made == self.assembly.identity:
            try:
                is_whole = len(open_dataset(out)) > 0
            except UserError:  # it was damaged since: convert again
                return False
            return is_whole and self._is_older_than(out / SIDECAR if out.is_dir() else out)
        if out.exists() and not self._overwrite:
            raise UserError(
                f"OUT must not hold something else. Found: {out}, made from another source or in "
                "another way. Pass --overwrite to replace it, or give another name."
            )
        return False

    def _is_older_than(self, made: Path) -> bool:
        """Whether no image has changed since OUT was made; UserError unless OUT may be replaced."""
        newer = np.flatnonzero(self.assembly.times > made.stat().st_mtime_ns)
        if len(newer) and not self._overwrite:
            raise UserError(
                f"OUT must be made of the source as it is. Found: {self.out}, and {len(newer)} "
                f"images that changed later, such as {self.assembly.names[int(newer[0])]}. Pass "
                "--overwrite to convert again, or --source-changed ignore if only their times did."
            )
        return len(newer) == 0

    # ---- writing ---------------------------------------------------------------------------------
    def write(self, images_from: Images, expected_bytes: int) -> None:
        """Write all images, and give OUT and its manifest their names.

        Raises UserError if an image is bad and must not be left out, or all of them are; another
        conversion was left unfinished; or the disk has no room for `expected_bytes`. OSError is
        anything else that a disk does. What was done is kept.
        """
        try:
            finished, report = self._assemble(images_from, expected_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = format_bytes(shutil.disk_usage(self.work).free)
            raise UserError(
                f"the disk of OUT is full. Found: {free} free in {self.work.parent} "
                f"({error.strerror}). Make room and give the same command again: it goes on where "
                "it stopped."
            ) from error
        out, manifest = self.out, manifest_of(self.out)
        # OUT can say itself how it was made; an older manifest would say something else of it.
        manifest.unlink(missing_ok=True)
        if out.exists() and (out.is_dir() or finished.is_dir()):
            aside = self.work / "replaced"
            if aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink(missing_ok=True)
            out.replace(aside)
        finished.replace(out)
        sync_folder(out.parent)
        if self.assembly.kind != "part":
            write_manifest(manifest, report)
        (self.work / JOURNAL).unlink()
        if out.name != SPOOL:
            self._say_done(report)

    def _say_done(self, report: dict[str, Any]) -> None:
        manifest, seconds = manifest_of(self.out), time.perf_counter() - self._started_s
        where = f", listed in {manifest}" if manifest.exists() else ""
        say(
            f"{self.out}: {report['num_images']} images of {len(report['class_ids'])} classes, "
            f"{format_bytes(report['num_bytes'])}, in {seconds:.1f} s; "
            f"{len(report['irregular'])} irregular, "
            f"{len(report['left_out'])} left out{where}"
            f"{describe_not_images(report['not_images'])}"
        )
        num_turned = sum(NOT_TURNED in remark["reason"] for remark in report["irregular"])
        if num_turned:
            num, total = f"{num_turned:,}", f"{report['num_images']:,}"
            say(f"{num} of {total} images are turned by EXIF; --exif apply turns them")

    def _assemble(self, images_from: Images, expected_bytes: int) -> tuple[Path, dict[str, Any]]:
        """The finished file or folder, and the manifest."""
        num = len(self.assembly.keys)
        journal = Journal(self.work / JOURNAL, num)
        try:
            writer = self._go_on(journal)
            try:
                if journal.count == 0:
                    check_space(self.work, expected_bytes)
                elif journal.count < num:
                    say(f"going on after {journal.count} of {num} images, in {self.work}")
                self._fill(writer, journal, images_from)
                report, columns = self._conclude(journal)
                return writer.finish(report, columns), report
            finally:
                with suppress(OSError):  # of a full disk, which has been raised already
                    writer.close()
        finally:
            journal.close()
            if journal.count == 0:  # nothing to go on with
                (self.work / JOURNAL).unlink()

    def _writer(self) -> ContainerWriter:
        num, kind = len(self.assembly.keys), self.assembly.kind
        if kind == "beton":
            return BetonWriter(self.work, num, self.assembly.largest_bytes)
        if kind == "webdataset":
            return WebDatasetWriter(self.work, num, self.assembly.identity["shard_mib"] << 20)
        return PartWriter(self.work, num)

    def _go_on(self, journal: Journal) -> ContainerWriter:
        """A writer that stands where the journal says."""
        assembly = self.assembly
        is_new = journal.identity is None
        difference = "" if is_new else _difference(assembly, journal)
        if difference and not self._overwrite:
            raise UserError(
                "an unfinished conversion can only go on with the same source and options. Found: "
                f"{difference}, in {self.work}. Give those, or pass --overwrite to begin again."
            )
        is_same = not is_new and not difference
        writer = self._writer()
        if is_same:
            kept = ~journal.records["is_bad"][: journal.count].astype(bool)
            sizes = journal.records["size"][: journal.count][kept].tolist()
            if writer.resume(sizes, assembly.labels[: journal.count][kept].tolist()):
                return writer
            writer.close()
            say(f"what was unfinished in {self.work} was cut since; beginning again")
        journal.begin(assembly.identity)
        return self._writer()

    def _fill(self, writer: ContainerWriter, journal: Journal, images_from: Images) -> None:
        """Add the images that are still missing; whatever happens, what was added is kept."""
        assembly, stops = self.assembly, self._bad == "error"
        for place, what, reason in journal.remarks:
            if stops and what == "error":
                raise _bad_image(assembly, place, reason)
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
                    if image.error and stops:
                        raise _bad_image(assembly, place, image.error)
                    if not image.error:
                        key, label = int(assembly.keys[place]), int(assembly.labels[place])
                        writer.add(key, image.data, label, image.mode)
                    journal.add(image, int(assembly.sizes[place]), int(assembly.times[place]))
                    if time.monotonic() - committed_s > COMMIT_S:
                        commit()
                        committed_s = time.monotonic()
            except BaseException:
                with suppress(OSError):  # of the disk that is full already
                    commit()
                raise
        commit()

    def _conclude(self, journal: Journal) -> tuple[dict[str, Any], dict[str, Any]]:
        """The manifest and the columns of what was written."""
        assembly, records = self.assembly, journal.records
        kept = ~records["is_bad"].astype(bool)
        if not kept.any() and assembly.kind != "part":
            raise UserError(
                f"an image must decode. Found: none of {len(kept)} in {assembly.source}. "
                "Give another source."
            )
        written = assembly
        if not kept.all():
            written, records = assembly.take(np.flatnonzero(kept)), records[kept]
        per_class = Counter(written.labels.tolist())
        remarks: dict[str, list[dict[str, str]]] = {"note": [], "error": []}
        for place, what, reason in journal.remarks:
            remarks[what].append({"name": assembly.names[place], "reason": reason})
        report = {
            "fastdeit": __version__,
            "pillow": PIL.__version__,
            "parameters": {name: v for name, v in assembly.identity.items() if name != "part"},
            "source": assembly.facts,
            "num_images": len(written.keys),
            "num_bytes": int(records["size"].sum(dtype=np.int64)),
            "class_ids": assembly.class_ids,
            "class_names": assembly.class_names,
            "images_per_class": [per_class[number] for number in range(len(assembly.class_ids))],
            "irregular": remarks["note"],
            "left_out": remarks["error"],
            "not_images": assembly.not_images,
        }
        columns = {
            "keys": written.keys,
            "names": written.names,
            "labels": written.labels,
            "checksums": records["checksum"].copy(),
            "widths": records["width"].astype(np.int32),
            "heights": records["height"].astype(np.int32),
            "modes": records["mode"].copy(),
        }
        return report, columns


def _difference(assembly: Assembly, journal: Journal) -> str:
    """Why an unfinished conversion is not the beginning of this one; empty if it is."""

    # An image that is still to come may have changed: a bad one was mended.
    def without_sizes(identity: Any) -> Any:
        if not isinstance(identity, dict) or not isinstance(identity.get("source"), dict):
            return identity
        kept = {name: value for name, value in identity["source"].items() if name != "fingerprint"}
        return {**identity, "source": kept}

    if without_sizes(journal.identity) != without_sizes(assembly.identity):
        return describe_difference(journal.identity, assembly.identity)
    done = journal.records[: journal.count]
    sizes, times = assembly.sizes[: journal.count], assembly.times[: journal.count]
    other_size = done["source_bytes"] != sizes.astype(np.uint64)
    other_time = (done["source_time"] != times) & (done["source_time"] != 0) & (times != 0)
    changed = np.flatnonzero(other_size | other_time)
    if not len(changed):
        return ""
    first, count = int(changed[0]), len(changed)
    only_time = (
        ""
        if other_size.any()
        else (" (their times have, not their sizes: --source-changed ignore is for copies)")
    )
    return (
        f"{count} of {journal.count} images that were done have changed since{only_time}, such as "
        f"{assembly.names[first]}"
    )


def _bad_image(assembly: Assembly, place: int, reason: str) -> UserError:
    return UserError(
        f"every image must decode. Found: {assembly.names[place]} in {assembly.source} ({reason}). "
        "Mend it, or pass --bad skip to leave such images out and list them, or --bad list to see "
        "all of them first."
    )


def check_apart(out: Path, source: Path) -> None:
    """Make sure that writing OUT leaves the source alone.

    Raises UserError if OUT is the source, within it or around it.
    """
    target, origin = out.resolve(), source.resolve()
    if target == origin or target in origin.parents or origin in target.parents:
        raise UserError(
            f"OUT must be neither the source nor within it nor around it. Found: {out}, with the "
            f"source {source}. Give a name elsewhere."
        )
