"""What a source is, seen from its path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastdeit import UserError
from fastdeit.pipelines.datasets.strays import is_hidden_folder
from fastdeit.pipelines.datasets.tar_bytes import GZIP_ENDINGS, is_gzip
from fastdeit.pipelines.datasets.urls import refuse_url
from fastdeit.pipelines.datasets.webdataset import SIDECAR
from fastdeit.tools.data.sources.listing import Listing

SourceKind = Literal["auto", "imagefolder", "ilsvrc", "webdataset", "parquet", "torchvision"]


def open_source(
    path: Path,
    kind: SourceKind = "auto",
    split: str | None = None,
    torchvision: str | None = None,
    devkit: Path | None = None,
) -> Listing:
    """List the images of a source; kind auto looks what it is.

    `split` is train, val or test, where it holds several; `torchvision` a class of
    torchvision.datasets; `devkit` ILSVRC's development kit. Raises UserError if there is no such
    source, it is not of that kind, or an option does not fit.
    """
    refuse_url(path)
    if not path.exists():
        raise UserError(
            f"source must exist. Found: nothing at {path}. Give ImageNet's train folder or "
            "ILSVRC2012_img_train.tar, say; `fastdeit convert --help` lists what else."
        )
    if torchvision is not None and kind not in ("auto", "torchvision"):
        raise UserError(
            f"torchvision names a class for torchvision sources only. Found: {torchvision} with "
            f"--source-kind {kind}. Leave one out."
        )
    found = kind if kind != "auto" else "torchvision" if torchvision else guess_kind(path)
    if devkit is not None and found != "ilsvrc":
        raise UserError(
            f"devkit is for ILSVRC's archives only. Found: {devkit} for {found} {path}. "
            "Leave it out, or pass --source-kind ilsvrc."
        )
    if split is not None and found in ("imagefolder", "container"):
        way_out = f"Give {path / split}" if (path / split).is_dir() else "Leave --split out"
        raise UserError(
            f"split chooses among several. Found: {split} for {path}, which is one. {way_out}."
        )
    return _list(found, path, split, torchvision, devkit)


def guess_kind(path: Path) -> str:
    """What lies at a path: a `SourceKind` or "container"."""
    from fastdeit.tools.data.sources.ilsvrc import looks_like_ilsvrc
    from fastdeit.tools.data.sources.parquet_files import looks_like_parquet
    from fastdeit.tools.data.sources.vision_sets import guess_vision_set

    if path.suffix == ".beton" or (path / SIDECAR).is_file():
        return "container"
    if looks_like_parquet(path):
        return "parquet"
    if looks_like_ilsvrc(path):
        return "ilsvrc"
    if path.is_file() and path.suffix != ".tar" and not (is_gzip(path) or _is_tar(path)):
        raise UserError(
            f"source must be a folder, or a .tar, .parquet or .beton file. Found: {path}. Give the "
            "folder that holds the images, or say what it is with --source-kind."
        )
    if path.is_file() or next(path.glob("[!.]*.tar"), None) is not None or _holds_packed(path):
        return "webdataset"
    return "torchvision" if guess_vision_set(path) else "imagefolder"


def _holds_packed(folder: Path) -> bool:
    """Whether packed shards lie in a folder, and no folders that are what it holds."""
    entries = [each for each in folder.iterdir() if not is_hidden_folder(each.name)]
    packed = [each for each in entries if each.name.endswith(GZIP_ENDINGS)]
    return bool(packed) and not any(each.is_dir() for each in entries)


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(263)[257:262] == b"ustar"


def _list(
    kind: str, path: Path, split: str | None, torchvision: str | None, devkit: Path | None
) -> Listing:
    """List a source of a known kind. Only its module is imported."""
    if kind == "container":
        from fastdeit.tools.data.sources.containers import list_container

        return list_container(path)
    if kind == "parquet":
        from fastdeit.tools.data.sources.parquet_files import list_parquet

        return list_parquet(path, split)
    if kind == "ilsvrc":
        from fastdeit.tools.data.sources.ilsvrc import list_ilsvrc

        return list_ilsvrc(path, split, devkit)
    if kind == "webdataset":
        from fastdeit.tools.data.sources.shards import list_shards

        return list_shards(path, split)
    if kind == "torchvision":
        from fastdeit.tools.data.sources.vision_sets import guess_vision_set, list_vision_set

        name = torchvision or guess_vision_set(path)
        if name is None:
            raise UserError(
                f"the class of torchvision.datasets must be named. Found: none for {path}. "
                "Pass --torchvision CIFAR10, say."
            )
        return list_vision_set(path, name, split)
    from fastdeit.tools.data.sources.imagefolder import list_folder

    return list_folder(path)
