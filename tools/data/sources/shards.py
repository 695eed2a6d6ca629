"""WebDataset shards as a source: a folder of .tar, whoever made them."""

from __future__ import annotations

from pathlib import Path

from fastdeit import UserError
from fastdeit.pipelines.datasets.foreign import (
    describe_splits,
    find_shards,
    scan_shards,
    shards_by_split,
)
from fastdeit.pipelines.datasets.imagefolder import read_class_names
from fastdeit.pipelines.datasets.names import SPLITS
from fastdeit.pipelines.datasets.tar_bytes import GZIP_ENDINGS
from fastdeit.tools.data.sources.listing import Listing, fingerprint_of, times_of
from fastdeit.tools.data.sources.packed import ranges_in


def list_shards(path: Path, split: str | None = None) -> Listing:
    """List the images of a folder of *.tar, or of *.tar.gz or *.tgz, or of one of them.

    `split` takes the shards that are named so, train, val or test, from a folder that mixes them.
    Raises UserError as `scan_shards`, or if the split is not there, or several are and none is
    chosen.
    """
    files = find_shards(path, (".tar", *GZIP_ENDINGS))
    packed = [file for file in files if file.name.endswith(GZIP_ENDINGS)]
    if 0 < len(packed) < len(files):
        plain = next(file for file in files if file not in packed)
        raise UserError(
            "shards must be all packed or none, so that none is read twice. Found: "
            f"{plain.name} and {packed[0].name} in {path}. Move those of one kind away."
        )
    splits = shards_by_split(files)
    found = f"{describe_splits(splits)}, in {path}"
    if split is not None:
        if SPLITS.get(split) not in splits:
            raise UserError(
                f"the name of a shard must tell the split {split}, as imagenet-{split}-0000.tar "
                f"does. Found: {found}. Choose another split, or none."
            )
        files = splits[SPLITS[split]]
    elif len(splits) > 1:
        raise UserError(f"source must be one split. Found: {found}. Choose one of them.")
    shards = scan_shards(files)
    requests = ranges_in(shards.files, shards.file_ids, shards.offsets, shards.sizes)
    folder = path if path.is_dir() else path.parent
    return Listing(
        path=path,
        kind="webdataset",
        names=shards.names,
        labels=shards.labels,
        sizes=shards.sizes,
        class_ids=shards.class_ids,
        class_names=read_class_names(folder, shards.class_ids),
        requests=requests,
        fingerprint=fingerprint_of(shards.names, shards.sizes, shards.labels),
        strays=shards.strays,
        times=times_of(shards.files, shards.file_ids),
        is_sequential=requests.is_sequential,
    )
