"""`fastdeit convert`: an ImageFolder becomes a .beton or a folder of WebDataset shards."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL
import tyro
import xxhash

from fastdeit import UserError, __version__
from fastdeit.files import replace_file
from fastdeit.pipelines.beton import BetonWriter
from fastdeit.pipelines.imagefolder import list_imagefolder, read_class_names
from fastdeit.pipelines.index import checksum, open_dataset, sample_key
from fastdeit.pipelines.webdataset import SIDECAR, WebDatasetWriter, is_shard_file
from fastdeit.tools.jpeg import PreparedImage, prepare_image
from fastdeit.tools.progress import progress
from fastdeit.tools.workers import num_workers, ordered_map


@dataclass(frozen=True, slots=True)
class Source:
    """The images to convert, in the order in which they are written."""

    path: Path
    class_ids: list[str]
    class_names: list[str]
    names: list[str]
    """Path of each image below `path`."""
    labels: list[int]
    largest_bytes: int
    fingerprint: str
    """Of all names and sizes."""


def convert(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    /,
    format: Literal["auto", "beton", "webdataset"] = "auto",
    bad: Literal["error", "skip"] = "error",
    quality: int = 95,
    workers: int = 0,
    overwrite: bool = False,
) -> int:
    """Convert an ImageFolder to FFCV's .beton or to WebDataset shards for DALI.

    JPEG bytes pass through untouched; what is no RGB or grey JPEG (CMYK, a PNG named .JPEG) is
    encoded again. Every image is decoded once to know that it can be. Samples are written in the
    order of their keys, which is a shuffle that does not change from run to run. OUT appears when
    it is complete; OUT.json beside it says how it was made and lists every irregular image.

    Args:
        source: folder with one folder a class, such as ImageNet's train.
        out: NAME.beton, or a folder for the shards.
        format: what to write; auto goes by the name of OUT.
        bad: what to do with an image that does not decode; stop, or leave it out and report it.
        quality: JPEG quality of images that are encoded again, 1 to 100.
        workers: processes that read and check; 0 takes every usable core.
        overwrite: replace OUT if an earlier conversion of something else made it.

    Returns:
        0.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"quality must be from 1 to 100. Found: {quality}. Pass --quality 95.")
    kind = format if format != "auto" else ("beton" if out.suffix == ".beton" else "webdataset")
    found = scan_source(source)
    parameters = {
        "format": kind,
        "bad": bad,
        "quality": quality,
        "source_fingerprint": found.fingerprint,
    }
    manifest = out.with_name(f"{out.name}.json")
    if is_there(out, manifest, parameters, source, overwrite):
        print(f"{out} is already there, from the same source in the same way.", file=sys.stderr)
        return 0

    started = time.perf_counter()
    paths = [source / name for name in found.names]
    processes = num_workers(workers)
    with only_one(out), closing(ordered_map(prepare_image, quality, paths, processes)) as prepared:
        report = write(kind, out, found, prepared, bad, parameters)
        write_manifest(manifest, report)
    seconds = time.perf_counter() - started
    print(
        f"{out}: {report['num_images']} images of {len(found.class_ids)} classes, "
        f"{report['num_bytes'] / 1e6:.1f} MB, in {seconds:.1f} s "
        f"({report['num_images'] / seconds:.0f} img/s); {len(report['irregular'])} irregular, "
        f"{len(report['left_out'])} left out, listed in {manifest}",
        file=sys.stderr,
    )
    return 0


def scan_source(path: Path) -> Source:
    """List the images of an ImageFolder in the order in which they are written.

    Raises:
        UserError: no such folder, or no images in it.
    """
    class_ids, images = list_imagefolder(path)
    images.sort(key=lambda image: sample_key(image[0]))
    digest = xxhash.xxh3_128()
    largest = 0
    for name, _ in images:
        num_bytes = (path / name).stat().st_size
        largest = max(largest, num_bytes)
        digest.update(f"{name}\0{num_bytes}\n".encode())
    return Source(
        path=path,
        class_ids=class_ids,
        class_names=read_class_names(path, class_ids),
        names=[name for name, _ in images],
        labels=[label for _, label in images],
        largest_bytes=largest,
        fingerprint=digest.hexdigest(),
    )


def is_there(
    out: Path, manifest: Path, parameters: dict[str, Any], source: Path, overwrite: bool
) -> bool:
    """Whether OUT is what this conversion would write.

    Raises:
        UserError: OUT is the source, within it or around it, or must not be replaced.
    """
    target, origin = out.resolve(), source.resolve()
    if target == origin or target in origin.parents or origin in target.parents:
        raise UserError(
            f"OUT must be neither the source nor within it nor around it. Found: {out}, with the "
            f"source {source}. Give a name elsewhere."
        )
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
    if out.exists() and made == parameters and not overwrite:
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


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Keep a second conversion from writing to the same OUT.

    Raises:
        UserError: another one does.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"only one conversion may write to an OUT. Found: another one writing {out}. "
                "Wait for it, or give another name."
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def made_with(manifest: Path) -> dict[str, Any] | None:
    """The parameters of an earlier conversion, or None if its manifest does not say."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        parameters: dict[str, Any] = content["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parameters


def write(
    kind: str,
    out: Path,
    source: Source,
    prepared: Iterator[PreparedImage],
    bad: str,
    parameters: dict[str, Any],
) -> dict[str, Any]:
    """Write all images into one container.

    Args:
        kind: "beton" or "webdataset".
        out: where.
        source: names and labels, in the order of `prepared`.
        prepared: the images.
        bad: "error" or "skip".
        parameters: for the manifest.

    Returns:
        The manifest.

    Raises:
        UserError: an image is bad and must not be left out, or all of them are.
    """
    writer: BetonWriter | WebDatasetWriter
    if kind == "beton":
        writer = BetonWriter(out, len(source.names), source.largest_bytes)
    else:
        writer = WebDatasetWriter(out)
    keys: list[int] = []
    checksums: list[int] = []
    names: list[bytes] = []
    labels: list[int] = []
    num_bytes = 0
    irregular: list[dict[str, str]] = []
    left_out: list[dict[str, str]] = []
    with writer:
        rows: Iterable[tuple[str, int, PreparedImage]] = zip(
            source.names, source.labels, prepared, strict=True
        )
        for name, label, image in progress(rows, "converting", len(source.names)):
            if image.error:
                if bad == "error":
                    raise UserError(
                        f"every image must decode. Found: {source.path / name} ({image.error}). "
                        "Remove it, or pass --bad skip to leave such images out and list them."
                    )
                left_out.append({"name": name, "reason": image.error})
                continue
            if image.irregular:
                irregular.append({"name": name, "reason": image.irregular})
            key = sample_key(name)
            writer.add(key, image.data, image.width, image.height, label)
            keys.append(key)
            checksums.append(checksum(image.data))
            names.append(name.encode())
            labels.append(label)
            num_bytes += len(image.data)
        if not keys:
            raise UserError(
                f"an image must decode. Found: none of {len(source.names)} in {source.path}. "
                "Give another source."
            )
        per_class = Counter(labels)
        report = {
            "fastdeit": __version__,
            "pillow": PIL.__version__,
            "parameters": parameters,
            "num_images": len(keys),
            "num_bytes": num_bytes,
            "class_ids": source.class_ids,
            "class_names": source.class_names,
            "images_per_class": [per_class[number] for number in range(len(source.class_ids))],
            "irregular": irregular,
            "left_out": left_out,
        }
        arrays = {
            "keys": np.array(keys, dtype=np.uint64),
            "checksums": np.array(checksums, dtype=np.uint64),
            "names": np.array(names),
        }
        writer.finish(report, arrays)
    return report
