"""ImageFolder as a source: one folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastdeit.pipelines.datasets.imagefolder import list_imagefolder, read_class_names
from fastdeit.tools.data.sources.listing import FileRanges, Listing, fingerprint_of


def list_folder(path: Path) -> Listing:
    """List an ImageFolder; UserError if there is none, or no images in it."""
    class_ids, names, labels, sizes, times, strays = list_imagefolder(path)
    return Listing(
        path=path,
        kind="imagefolder",
        names=names,
        labels=labels,
        sizes=sizes,
        class_ids=class_ids,
        class_names=read_class_names(path, class_ids),
        requests=FileRanges(
            names,
            np.arange(len(names)),
            np.zeros(len(names), np.int64),
            sizes,
            str(path),
        ),
        fingerprint=fingerprint_of(names, sizes, labels),
        times=times,
        strays=strays,
    )
