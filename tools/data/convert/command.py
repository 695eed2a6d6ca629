"""`fastdeit convert`: ImageNet, wherever it lies, becomes a .beton or WebDataset shards."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL
import tyro

from fastdeit import UserError, __version__
from fastdeit.pipelines.datasets.index import empty_classes
from fastdeit.pipelines.datasets.names import Names
from fastdeit.pipelines.datasets.urls import refuse_url
from fastdeit.text.progress import progress, say
from fastdeit.tools.data.convert.assembly import Assembly, describe_not_images, keys_of, not_images
from fastdeit.tools.data.convert.conversion import BadPolicy, Conversion, check_apart
from fastdeit.tools.data.convert.parts import check_parts, parse_part, part_path, read_parts
from fastdeit.tools.data.convert.prepare_image import ImageOptions, Preparation, PreparedImage
from fastdeit.tools.data.convert.split import split_listing
from fastdeit.tools.data.convert.work_folder import SPOOL, bytes_on_disk, check_space
from fastdeit.tools.data.sources.detect import SourceKind, open_source
from fastdeit.tools.data.sources.listing import Listing, fingerprint_of
from fastdeit.tools.data.workers import num_workers

DEFAULT_SHARD_MIB = 256


def convert(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    /,
    format: Literal["auto", "beton", "webdataset"] = "auto",
    source_kind: SourceKind = "auto",
    split: str | None = None,
    torchvision: str | None = None,
    devkit: Path | None = None,
    bad: BadPolicy = "error",
    mode: Literal["auto", "jpg", "raw", "proportion"] = "auto",
    jpg_fraction: float = 0.5,
    max_side: int | None = None,
    short_side: int | None = None,
    quality: int = 95,
    reencode: Literal["needed", "nonbaseline", "all"] = "needed",
    exif: Literal["ignore", "apply"] = "ignore",
    check: Literal["structure", "decode"] = "decode",
    sixteen_bit: Annotated[Literal["scale", "clip"], tyro.conf.arg(name="16-bit")] = "scale",
    shard_mib: int = DEFAULT_SHARD_MIB,
    part: str | None = None,
    split_val: float | None = None,
    val_out: Path | None = None,
    split_seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    source_changed: Literal["refuse", "ignore"] = "refuse",
) -> int:
    """Convert ImageNet and its like to FFCV's .beton or to WebDataset shards for DALI.

    JPEG bytes pass through untouched; what decoders do not all read in the same way (CMYK, a PNG
    named .JPEG) is encoded again. Samples are written in the order of their keys, a shuffle that is
    the same in every run and from every source. OUT appears when it is complete. A conversion that
    was stopped goes on when the same command is given again, and OUT becomes the same in every
    byte. OUT.json says how it was made and lists every irregular image.

    Args:
        source: a folder with one folder a class; ILSVRC2012_img_train.tar or _val.tar; WebDataset
            shards; either packed by gzip too; Parquet files or train_images_0.tar.gz and so on as
            Hugging Face stores them; the root of a torchvision dataset.
        out: NAME.beton, or a folder for the shards.
        format: what to write; auto goes by the name of OUT.
        source_kind: what SOURCE is; auto looks.
        split: train, val or test, where SOURCE holds several.
        torchvision: class of torchvision.datasets whose root is SOURCE, such as CIFAR10.
        devkit: ILSVRC2012_devkit_t12.tar.gz, or its folder, for the labels of ILSVRC's val; by
            default it is looked for beside SOURCE.
        bad: an image that does not decode: error stops; skip leaves it out and reports it; list
            names all such images and writes nothing.
        mode: of the images in a .beton, as FFCV's write_mode: jpg, raw pixels, or proportion (some
            of both). auto is jpg for files, and lossless for sources of bare pixels.
        jpg_fraction: share of images that stay JPEG in mode proportion, FFCV's
            compress_probability.
        max_side: scale images down to so many pixels on the longer side.
        short_side: scale images down to so many pixels on the shorter side.
        quality: JPEG quality of images that are encoded again, 1 to 100.
        reencode: which images are encoded again: those that need it; progressive and greyscale
            ones too (nonbaseline); or all, as FFCV's writer does.
        exif: ignore EXIF orientation, as DeiT's loader does, or apply it.
        check: of images that pass through: decode them, or look at their structure only, up to the
            last marker, which is quicker and lets some pass that do not decode.
        sixteen_bit: grey of 16 bits is scaled to 8 by 1/257, or clipped at 255 as PIL does, which
            makes most of it white.
        shard_mib: about how large a shard becomes.
        part: i/n converts one of n parts, for n machines; `fastdeit merge OUT` joins them.
        split_val: share of the images, of each class about the same, that goes to --val-out to
            validate with; the rest goes to OUT. Each image goes by its name: more images move none.
        val_out: NAME.beton, or a folder for shards, for those images.
        split_seed: another seed makes another split.
        workers: processes that read and encode; 0 takes every usable core.
        overwrite: replace OUT if an earlier conversion of something else made it, and throw away
            an unfinished conversion with other options.
        source_changed: what an unfinished conversion does about files that changed since it read
            them: refuse to go on, or ignore their times, as for a copy that did not keep them.

    Returns:
        0, or 1 if --bad list found bad images.
    """
    _check_split(out, split_val, val_out, split_seed)
    outs = [out] if val_out is None else [out, val_out]
    if shard_mib < 1:
        raise UserError(f"shard-mib must be at least 1. Found: {shard_mib}. Pass 256, say.")
    kinds = [_kind_of(each, format, mode) for each in outs]
    if shard_mib != DEFAULT_SHARD_MIB and "webdataset" not in kinds:
        raise UserError(
            f"shard-mib is for shards. Found: {shard_mib} for {out}, a .beton. Leave it out."
        )
    options = ImageOptions(
        lossless="raw",
        mode=mode,
        jpg_fraction=jpg_fraction,
        max_side=max_side,
        short_side=short_side,
        quality=quality,
        reencode=reencode,
        exif=exif,
        check=check,
        sixteen_bit=sixteen_bit,
    )
    which = parse_part(part) if part is not None else None
    processes = num_workers(workers)
    for path in (*outs, source):
        refuse_url(path)
    for path in outs:
        check_apart(path, source)
    listing = open_source(source, source_kind, split, torchvision, devkit)
    num, classes = f"{len(listing):,} images", f"{len(listing.class_ids):,} classes"
    say(f"{source}: {num} of {classes} ({listing.kind})")
    empty = empty_classes(listing.labels, listing.class_names)
    if empty is not None:
        say(f"{source}: {empty}")
    if bad == "list":
        prepare = Preparation(listing, options, processes)
        with closing(prepare.images(np.arange(len(listing)))) as images:
            num_bad = _list_bad(images, listing.names, len(listing))
        others = describe_not_images(not_images(listing.strays))
        say(f"{source}: {num_bad} of {len(listing)} images are bad{others}; nothing was written")
        return 1 if num_bad else 0
    listings = [listing]
    if split_val is not None:
        listings = list(split_listing(listing, split_val, split_seed))
    for path, kind, each in zip(outs, kinds, listings, strict=True):
        stored = replace(options, lossless="raw" if kind == "beton" else "png")
        assembly = describe(each, kind, stored, shard_mib, source_changed == "refuse")
        if split_val is not None:
            identity = {**assembly.identity, "split": [split_val, split_seed, path is val_out]}
            assembly = replace(assembly, identity=identity)
        prepare = Preparation(each, stored, processes)
        if which is None:
            _convert_whole(path, assembly, prepare, bad, overwrite)
        else:
            check_parts(path, which[1])
            piece = part_path(path, *which)
            _convert_part(piece, which, assembly, prepare, bad, overwrite)
    return 0


def _kind_of(out: Path, format: str, mode: str) -> Literal["beton", "webdataset"]:
    """What OUT is to be."""
    kind: Literal["beton", "webdataset"] = "beton" if out.suffix == ".beton" else "webdataset"
    if format in ("beton", "webdataset"):
        kind = "beton" if format == "beton" else "webdataset"
    if kind == "webdataset" and mode in ("raw", "proportion"):
        raise UserError(
            f"only a .beton holds raw images. Found: mode {mode} for shards. Name OUT {out}.beton."
        )
    return kind


def _check_split(out: Path, share: float | None, val_out: Path | None, seed: int) -> None:
    """Raise a UserError for options of a split that do not fit together."""
    if (share is None) != (val_out is None):
        found = "--val-out alone" if share is None else "--split-val alone"
        raise UserError(
            f"a split needs its share and a place for it. Found: {found}. "
            "Pass --split-val 0.1 --val-out VAL.beton, say."
        )
    if share is None and seed != 0:
        raise UserError(f"split-seed is for --split-val. Found: {seed}. Leave it out.")
    if share is not None and not 0 < share < 1:
        raise UserError(f"split-val must be between 0 and 1. Found: {share}. Pass 0.1, say.")
    if val_out is not None and val_out.resolve() == out.resolve():
        raise UserError(f"val-out must be another one than OUT. Found: {val_out}. Rename one.")


def _convert_whole(
    out: Path, assembly: Assembly, prepare: Preparation, bad: BadPolicy, overwrite: bool
) -> None:
    """Convert a whole source, or go on where an earlier run was stopped."""
    with Conversion(out, assembly, bad, overwrite) as conversion:
        if conversion.is_done():
            _check_left_out(out, bad)
            return
        conversion.assembly, order = assembly.in_key_order()
        if not prepare.listing.is_sequential:
            conversion.write(lambda first: prepare.images(order[first:]), prepare.expected_bytes())
            return
        # Read once in its own order; what is spooled is read again in the order of the keys.
        work = conversion.work
        path = work / SPOOL
        if not path.exists():
            check_space(work, 2 * prepare.expected_bytes() - bytes_on_disk(work))
        _convert_part(path, (1, 1), assembly, prepare, bad, overwrite)
        conversion.write(read_parts([path]).images_from, prepare.expected_bytes())
        shutil.rmtree(path)


def describe(
    listing: Listing,
    kind: Literal["beton", "webdataset"],
    options: ImageOptions,
    shard_mib: int,
    with_times: bool = True,
) -> Assembly:
    """What is converted and how, in the source's own order.

    `with_times` tells whether an image that was done must have the time that it had then.
    """
    times = listing.times if with_times else None
    source = {
        "kind": listing.kind,
        "num_images": len(listing),
        "names": fingerprint_of(listing.names, listing.labels[:0], listing.labels),
        "fingerprint": listing.fingerprint,
    }
    return Assembly(
        kind=kind,
        names=listing.names,
        keys=keys_of(listing.names),
        labels=listing.labels,
        sizes=listing.sizes,
        times=np.zeros_like(listing.sizes) if times is None else times,
        class_ids=listing.class_ids,
        class_names=listing.class_names,
        # Another Pillow may encode in another way, and what is resumed must be of one piece.
        identity={
            "format": kind,
            "shard_mib": shard_mib if kind == "webdataset" else None,
            **asdict(options),
            "source": source,
            "versions": {"fastdeit": __version__, "pillow": PIL.__version__},
        },
        facts=source,
        largest_bytes=int(listing.sizes.max()),
        source=listing.path,
        not_images=not_images(listing.strays),
    )


def _convert_part(
    path: Path,
    which: tuple[int, int],
    assembly: Assembly,
    prepare: Preparation,
    bad: BadPolicy,
    overwrite: bool,
) -> None:
    """Convert one part of a source: a stretch of it in its own order."""
    part, num_parts = which
    total = len(assembly.keys)
    places = np.arange(total * (part - 1) // num_parts, total * part // num_parts)
    if len(places) == 0:
        raise UserError(
            f"a part must hold an image. Found: {num_parts} parts of {total} images. Make fewer."
        )
    piece = replace(
        assembly.take(places),
        kind="part",
        identity={**assembly.identity, "part": list(which)},
        facts={**assembly.facts, "largest_bytes": assembly.largest_bytes},
    )
    with Conversion(path, piece, bad, overwrite) as conversion:
        if not conversion.is_done():
            expected = prepare.expected_bytes() * len(places) // total
            conversion.write(lambda first: prepare.images(places[first:]), expected)


def _check_left_out(out: Path, bad: BadPolicy) -> None:
    """Refuse to call OUT done if it lacks images and that is not wanted."""
    from fastdeit.pipelines.datasets.index import open_dataset

    left_out = open_dataset(out).made_by["left_out"]
    if left_out and bad == "error":
        raise UserError(
            f"every image must decode. Found: {out}, which was made without {len(left_out)} images "
            f"({left_out[0]['name']}: {left_out[0]['reason']}). Mend them, or pass --bad skip."
        )


def _list_bad(images: Iterable[PreparedImage], names: Names, total: int) -> int:
    num_bad = 0
    for place, image in enumerate(progress(images, "checking", total)):
        if image.error:
            num_bad += 1
            say(f"bad: {names[place]}: {image.error}")
    return num_bad
