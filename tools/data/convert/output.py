"""OUT and OUT.json: what may be replaced, and how what is finished gets its name."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.files import replace_file
from fastdeit.pipelines.datasets.container import sync_folder
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.webdataset import SIDECAR, is_shard_file
from fastdeit.text.progress import say
from fastdeit.tools.data.convert.assemble import Assembly, BadPolicy, assemble
from fastdeit.tools.data.convert.journal import Journal
from fastdeit.tools.data.convert.prepare_image import PreparedImage
from fastdeit.tools.data.convert.work_folder import JOURNAL, format_bytes


def manifest_of(out: Path) -> Path:
    """OUT.json."""
    return out.with_name(f"{out.name}.json")


def is_there(out: Path, assembly: Assembly, source: Path, overwrite: bool) -> bool:
    """Whether OUT is what this conversion would write.

    Raises:
        UserError: OUT is the source, within it or around it, or must not be replaced.
    """
    manifest = manifest_of(out)
    check_apart(out, source)
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
    if out.exists() and made == assembly.identity:
        try:
            return len(open_dataset(out)) > 0
        except UserError:  # it was damaged since: convert again
            return False
    if out.exists() and not overwrite:
        raise UserError(
            f"OUT must not hold something else. Found: {out}, made from another source or in "
            "another way. Pass --overwrite to replace it, or give another name."
        )
    return False


def check_apart(out: Path, source: Path) -> None:
    """Make sure that writing OUT leaves the source alone.

    Raises:
        UserError: OUT is the source, within it or around it.
    """
    target, origin = out.resolve(), source.resolve()
    if target == origin or target in origin.parents or origin in target.parents:
        raise UserError(
            f"OUT must be neither the source nor within it nor around it. Found: {out}, with the "
            f"source {source}. Give a name elsewhere."
        )


def forget_finished(work: Path, assembly: Assembly) -> None:
    """Remove the journal of a conversion that was killed after its OUT was complete."""
    path = work / JOURNAL
    if path.is_file():
        journal = Journal(path, len(assembly.keys))
        journal.close()
        if journal.identity == assembly.identity:
            path.unlink()


def restore_manifest(out: Path, manifest: Path) -> None:
    """Write OUT.json again from what OUT itself says of how it was made, if it says so."""
    if out.is_dir() and not (out / SIDECAR).is_file():
        return
    try:
        made_by = open_dataset(out).made_by
    except UserError:
        return
    if "parameters" in made_by:
        write_manifest(manifest, made_by)


def write_manifest(manifest: Path, report: dict[str, Any]) -> None:
    """Write OUT.json."""
    replace_file(manifest, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def made_with(manifest: Path) -> dict[str, Any] | None:
    """The parameters of an earlier conversion, or None if its manifest does not say."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        parameters: dict[str, Any] = content["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parameters


def finish(
    out: Path,
    assembly: Assembly,
    work: Path,
    images_from: Callable[[int], Generator[PreparedImage, None, None]],
    bad: BadPolicy,
    overwrite: bool,
    on_start: Callable[[], None],
) -> dict[str, Any]:
    """Assemble a container in the work folder, and give it and its manifest their names.

    Args:
        out: the final name.
        assembly: what is written.
        work: the folder for what is unfinished.
        images_from: see `assemble`.
        bad: see `assemble`.
        overwrite: whether to throw away what another conversion left unfinished.
        on_start: see `assemble`.

    Returns:
        The manifest.
    """
    try:
        finished, report = assemble(assembly, work, images_from, bad, overwrite, on_start)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = format_bytes(shutil.disk_usage(work).free)
        raise UserError(
            f"the disk of OUT is full. Found: {free} free in {work.parent} ({error.strerror}). "
            "Make room and give the same command again: it goes on where it stopped."
        ) from error
    manifest = manifest_of(out)
    # OUT can say itself how it was made; an older manifest would say something else of it.
    manifest.unlink(missing_ok=True)
    if out.exists() and (out.is_dir() or finished.is_dir()):
        aside = work / "replaced"
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
        out.replace(aside)
    finished.replace(out)
    sync_folder(out.parent)
    if assembly.kind != "part":
        write_manifest(manifest, report)
    (work / JOURNAL).unlink()
    return report


def say_done(out: Path, report: dict[str, Any], seconds: float) -> None:
    """Tell what was written, in how many seconds of this run."""
    where = f", listed in {manifest_of(out)}" if manifest_of(out).exists() else ""
    say(
        f"{out}: {report['num_images']} images of {len(report['class_ids'])} classes, "
        f"{format_bytes(report['num_bytes'])}, in {seconds:.1f} s; "
        f"{len(report['irregular'])} irregular, "
        f"{len(report['left_out'])} left out{where}"
    )
